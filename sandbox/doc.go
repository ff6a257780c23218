// Package sandbox keeps the users' containers: it starts, finds, adopts and
// stops them. A container is a user namespace with the user's own ids, an
// overlay of an image below the user's layer, a home, a cgroup with limits,
// and carrel-init listening as PID 1.
//
// # Life cycle
//
//	Start   ids → directories → home → cgroup → listener → carrel-runtime → record
//	Dial    a connection to carrel-init, for one session
//	Freeze  every process stands still; Acquire thaws what was idle
//	Stop    SIGKILL to PID 1, wait, carrel-runtime delete, cgroup, directories
//	Discard the layer, and the home if wanted, of a user without a container
//	Open    adopts what runs: a record whose PID 1 still lives is a container;
//	        a directory or cgroup without one is removed
//
// carreld may die at any step. What tells the truth afterwards is the kernel:
// the cgroup lists the processes, the record in /run names PID 1 and the time
// it started. Nothing of a running container needs carreld.
//
// # Directories
//
//	RunDir/c/UID/            0700  init.sock, record.json, log; paused says why it is frozen
//	RunDir/runtime/          0700  libcontainer's state
//	RunDir/stage/            0755  empty; a mount point in carrel-runtime's own mount namespace
//	StateDir/ids.json              id ranges, never reused
//	StateDir/users/UID/      0700  upper/ and work/ of the overlay, ids shifted
//	StateDir/homes/UID/            the home, owned by the user
//	StateDir/homes/UID.owner       whose it is, while there is no layer to tell
//	StateDir/skeleton/             the topmost lower layer: mount points as real directories
//
// # What an attacker controls
//
// The content of the upper layer and of the home, and everything that comes
// out of the container's socket. This package reads nothing below either: it
// makes and checks the top directories, unlinks four names of our own in the
// layer's etc while no process of the container lives, and hands them to
// carrel-runtime.
package sandbox
