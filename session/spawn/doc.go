// Package spawn is the inside half of a session, run by carrel-init as PID 1
// of a user's container: it answers carreld on a listening socket that it
// inherited, makes the session's terminal or pipes, forks, drops to the user,
// executes the shell, reaps, and reports how it ended.
//
// # Life
//
//	Setup    writes the user into /etc/passwd and /etc/group, drops rights
//	Serve    accepts; each connection is one request in a goroutine of its own
//	Reap     collects every child and every orphan of the container
//
// Beside logins it answers carreld which sessions live, writes lines to their
// terminals, tells of their ends, and passes on what programs inside ask about
// the container (own.go).
//
// # What an attacker controls
//
// Everything around: the root file system, /etc included, and every process
// that init starts. They share its PID namespace and, as root of the
// container, even its user id. Init is protected from them by its file, which
// nobody inside may read: the kernel then refuses ptrace, /proc/1/mem,
// /proc/1/fd and pidfd_getfd (ptrace(2), "ptrace access mode checking";
// would_dump in fs/exec.c). Setup checks that it is so.
//
// Rights are dropped once, in init itself, and inherited: the bounding set is
// empty, no_new_privs is set and the seccomp filter is loaded before the
// first session. A session's ids change in the forked child alone: a thread
// of init with the user's uid could be signalled by the user, which kills
// PID 1 and with it the container.
//
// Init counts under the limit of processes of its user, with each of its
// threads. It makes all that it can want before the first session (threads.go),
// for the Go runtime dies where it cannot make one: a user at the limit goes
// without another process, not without their container.
//
// # What is not protected
//
// A user can stop the forked child before its exec and so delay their own
// logins, until the deadline kills it. Nobody else's login passes here.
package spawn
