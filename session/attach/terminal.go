package attach

import (
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// A terminal is the one that the user sits at.
type terminal struct {
	saved unix.Termios
	size  unix.Winsize
}

// openTerminal returns the user's terminal, nil unless both descriptor 0 and
// descriptor 1 are one: with only one of them, the other is a file or a pipe
// that wants its bytes as they are.
func openTerminal() *terminal {
	saved, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil || !isTerminal(1) {
		return nil
	}
	t := &terminal{saved: *saved}
	if size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
		t.size = *size
	}
	return t
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

func (t *terminal) describe() session.Terminal {
	return session.Terminal{
		Size:     session.Winsize{Rows: t.size.Row, Cols: t.size.Col, XPixel: t.size.Xpixel, YPixel: t.size.Ypixel},
		HasModes: true,
		Modes: session.Modes{
			Iflag: t.saved.Iflag, Oflag: t.saved.Oflag, Cflag: t.saved.Cflag, Lflag: t.saved.Lflag,
			Cc: t.saved.Cc,
		},
	}
}

// raw makes the terminal pass every byte on, as cfmakeraw(3) does: the
// container's own terminal edits, echoes and makes signals.
func (t *terminal) raw() {
	m := t.saved
	m.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	m.Oflag &^= unix.OPOST
	m.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	m.Cflag = m.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	m.Cc[unix.VMIN], m.Cc[unix.VTIME] = 1, 0
	_ = unix.IoctlSetTermios(0, unix.TCSETS, &m)
}

func (t *terminal) restore() { _ = unix.IoctlSetTermios(0, unix.TCSETS, &t.saved) }

// copySize gives the container's terminal the size of the user's. The kernel
// sends SIGWINCH to its foreground process group if that is a change.
func (t *terminal) copySize(master int) {
	if size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
		_ = unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, size)
	}
}
