// Package cgroup makes, limits, reads, kills and removes the cgroup of one
// user, on cgroup v2 (the reference), on v1 and on hybrid hosts.
//
//	/carrel                 parent; no limits
//	/carrel/u1000           the user: every limit sits here and nowhere below
//	/carrel/u1000/box       delegated to container root: it may make leaves
//	/carrel/u1000/box/NAME  leaves, made by PID 1 with package leaf
//
// Life cycle: Create, Delegate, BoxDirs (inherited by PID 1); the runtime puts
// PID 1 into the box or into a leaf of it; Usage and Procs at any time; Kill;
// Remove. After a restart of carreld: List and Load.
//
// # Where PID 1 goes
//
// libcontainer may be given Box itself (its parent as Parent, "box" as Name)
// or a leaf below it. Box itself is the better choice on v2, for three reasons:
//   - on a cgroup2 mount with nsdelegate, systemd's default, a task can enter
//     only cgroups below the root of its cgroup namespace, which is where PID 1
//     was when the namespace was made. With PID 1 in box/init, a sibling
//     box/s1 is ENOENT (kernel/cgroup/cgroup.c, cgroup_procs_write_permission);
//   - the device program that libcontainer attaches holds for its cgroup and
//     below, so sessions beside box/init would run without it;
//   - freezing libcontainer's cgroup freezes the sessions too.
//
// It does not meet v2's rule against processes in inner cgroups, for that
// binds only where box/cgroup.subtree_control is not empty, and neither this
// package nor libcontainer writes to the file of the cgroup given to it.
//
// cpuset on v1: a new cgroup has no cpus and no task can enter it. libcontainer
// fills every level from the mount point down to its own cgroup, so the parents
// made there need nothing from here, and this package makes none in cpuset.
//
// # What an attacker controls here
//
// Container root owns the box directory (v2: and box/cgroup.procs) and all of
// the leaves. It may make leaves, nested ones too, move its own processes
// between them and set limits below the user's own. It can change no limit of
// the user's: those files are host root's. Names below the box are theirs:
// nothing here follows one elsewhere, as a cgroup file system has no links.
//
// Not protected: on v1 the user's processes share the cpuset, blkio and net
// hierarchies with whoever has no cgroup there; and a v1 fork loop is stopped
// by rounds of SIGKILL, not in one step.
package cgroup
