// Package failpoint marks the places between two steps of work that must not
// leave anything behind when the process is killed there. In a build with the
// tag failpoint, the process kills itself at the place that the variable
// CARREL_FAILPOINT names; in any other the marks are nothing.
package failpoint
