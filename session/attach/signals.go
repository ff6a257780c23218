package attach

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// watchSignals collects the signals that are for the session, not for us:
// those that sshd, login or a service manager send to a shell. Those that were
// ignored when we started stay so, as for any program: nohup(1) ignores SIGHUP,
// and a shell without job control SIGINT and SIGQUIT in what it puts into the
// background. Go tells that of the first two.
func watchSignals() <-chan os.Signal {
	c := make(chan os.Signal, 16)
	signal.Notify(c, unix.SIGWINCH, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGCONT)
	if !signal.Ignored(unix.SIGHUP) {
		signal.Notify(c, unix.SIGHUP)
	}
	if signal.Ignored(unix.SIGINT) {
		signal.Ignore(unix.SIGQUIT)
	} else {
		signal.Notify(c, unix.SIGINT, unix.SIGQUIT)
	}
	return c
}

// forwardSignals relays signals until the process ends.
func (s *attached) forwardSignals(c <-chan os.Signal) {
	for sig := range c {
		switch number, _ := sig.(syscall.Signal); number {
		case unix.SIGWINCH:
			if s.tty != nil {
				s.tty.copySize(s.in)
			}
		case unix.SIGCONT:
			if s.tty != nil { // whoever stopped us may have changed both
				s.tty.raw()
				s.tty.copySize(s.in)
			}
		case unix.SIGHUP:
			s.hangup()
		default:
			s.signal(number)
		}
	}
}

// Die ends the process by the signal sig, as a shell's caller expects when
// the command inside died of it, and without a core file. It returns only if
// sig cannot end a process.
func Die(sig uint8) {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	defaultAction(unix.Signal(sig))
	_ = unix.Kill(unix.Getpid(), unix.Signal(sig))
	// A signal to oneself is delivered before kill returns if this thread has
	// it unblocked, else to another thread at once (kill(2)).
	var ts unix.Timespec
	ts.Sec = 1
	_ = unix.Nanosleep(&ts, nil)
}
