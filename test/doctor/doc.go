// Package doctor holds the system tests of `carrel doctor`: each bad state is
// made on a real machine, with a real sshd, cron, atd and mail system, seen to
// be a hole where that is what is claimed, found, put right by the remedy that
// was printed or by --fix, and seen to be gone and shut.
//
// A canary is something that a user of Carrel leaves behind, and that writes
// down the mount namespace that it runs in. On the host it runs when that is
// the machine's own.
//
// TestMain runs the tests in a machine of their own: a mount and a network
// namespace in which /etc and the other directories that they change are
// copies that vanish. So nothing of it is seen by the real machine but the
// processes, whose uids are chosen to be nobody's.
package doctor
