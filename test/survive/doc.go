// Package survive kills carreld: between any two steps of making and removing
// a container, and again and again under sessions that stream. Nothing may be
// lost, nothing may be left behind, and the next login must work.
//
// CARREL_LONG=1 makes it take the five minutes that it takes to be sure.
package survive
