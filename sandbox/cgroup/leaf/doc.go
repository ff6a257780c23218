// Package leaf is the part of cgroup that runs inside the container: PID 1
// makes one leaf per session below the delegated box and starts the session
// in it.
//
// Life cycle: carrel-runtime hands PID 1 one directory descriptor of the box
// per hierarchy; Inherit wraps them; New makes a leaf; the session is born in
// it (v2: the child by CLONE_INTO_CGROUP with FD; v1: the forking thread calls
// Enter and its children follow it); Kill and Remove end it.
//
// No task but the caller's own is ever moved: moving another one waits for an
// RCU grace period, 7 to 15 ms on an idle host. On v1 a thread that writes "0"
// to "tasks" skips the lock that waits (kernel/cgroup/cgroup.c,
// cgroup_procs_write_start).
//
// Rights: the box directory belongs to container root, its control files do
// not. So a leaf can be made, and what is in a leaf belongs to its maker, but
// no limit of the user's own group can be changed from here. Nothing of this
// protects init from itself: whoever holds these descriptors and container
// root's uid may make leaves without end, bounded by the memory limit above.
//
// The package is linked into the static init, so it keeps to errors, strconv,
// time and x/sys/unix; a test holds it to that.
package leaf
