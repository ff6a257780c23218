package session

// A Winsize is a terminal's size, as in ioctl_tty(2). The zero value is a
// terminal that does not know its size.
type Winsize struct {
	Rows, Cols     uint16 // characters
	XPixel, YPixel uint16 // pixels, 0 where unknown
}

// Modes are a terminal's modes (termios(3)): how the user's own terminal was
// set before carrelsh made it raw, so that the container's terminal starts
// with the same erase character, flow control and so on. The speed is left
// out: a pseudoterminal has none.
type Modes struct {
	Iflag, Oflag, Cflag, Lflag uint32
	Cc                         [19]uint8 // NCCS of the kernel's struct termios
}

// A Terminal is what a session with a terminal of its own starts with.
type Terminal struct {
	Size  Winsize
	Modes Modes
	// HasModes is false when the user's terminal could not be read; the
	// kernel's defaults hold then.
	HasModes bool
}

func (e *encoder) terminal(t Terminal) {
	e.u16(t.Size.Rows)
	e.u16(t.Size.Cols)
	e.u16(t.Size.XPixel)
	e.u16(t.Size.YPixel)
	e.flag(t.HasModes)
	e.u32(t.Modes.Iflag)
	e.u32(t.Modes.Oflag)
	e.u32(t.Modes.Cflag)
	e.u32(t.Modes.Lflag)
	e.b = append(e.b, t.Modes.Cc[:]...)
}

func (d *decoder) terminal() (t Terminal) {
	t.Size = Winsize{Rows: d.u16(), Cols: d.u16(), XPixel: d.u16(), YPixel: d.u16()}
	t.HasModes = d.flag()
	t.Modes.Iflag, t.Modes.Oflag = d.u32(), d.u32()
	t.Modes.Cflag, t.Modes.Lflag = d.u32(), d.u32()
	copy(t.Modes.Cc[:], d.take(len(t.Modes.Cc)))
	return t
}
