package session

// A Command is what runs in a session.
type Command struct {
	// Login makes the shell a login shell: its argv[0] begins with '-'.
	Login bool
	// HasText says that the shell gets Text as its -c; without it the shell
	// is interactive.
	HasText bool
	// Text is one opaque string. Nobody but the shell inside takes it apart.
	Text string
	// Args follow Text: $0, $1 and so on of the shell. At most 256.
	Args []string
}

// Streams are the kinds of the session's standard streams.
type Streams struct {
	// Tty gives the session a terminal of its own as descriptors 0 and 1.
	Tty bool
	// SplitStderr gives it a pipe as descriptor 2 although it has a terminal.
	// Without a terminal all three are pipes.
	SplitStderr bool
}

// Descriptors returns how many descriptors the reply to a session with such
// streams carries: the control socket, then what Endpoints lists.
func (s Streams) Descriptors() int {
	switch {
	case s.Tty && s.SplitStderr:
		return 3
	case s.Tty:
		return 2
	}
	return 4
}

// A Request is what carrelsh asks carreld for. Who asks is not in it: that is
// the kernel's word (SO_PEERCRED, unix(7)).
type Request struct {
	Command  Command
	Streams  Streams
	Terminal Terminal
	// Env is the user's environment after FilterEnv, NAME=VALUE.
	Env []string
	// Agent says that carrelsh can reach an SSH agent for the session.
	Agent bool
	// Umask is carrelsh's own, as sshd or login left it; the low nine bits.
	Umask uint16
}

func (e *encoder) command(c Command) {
	e.flag(c.Login)
	e.flag(c.HasText)
	e.str(c.Text)
	e.strs(c.Args)
}

func (d *decoder) command() Command {
	return Command{Login: d.flag(), HasText: d.flag(), Text: d.str(), Args: d.strs(maxArgs)}
}

func (e *encoder) streams(s Streams) {
	e.flag(s.Tty)
	e.flag(s.SplitStderr)
}

func (d *decoder) streams() Streams { return Streams{Tty: d.flag(), SplitStderr: d.flag()} }

// umask takes a mask of permission bits.
func (d *decoder) umask() uint16 {
	m := d.u16()
	if m > 0o777 {
		d.bad = true
		return 0
	}
	return m
}

// Encode returns the request as a frame, ErrFrame if it is over a bound.
func (r *Request) Encode() ([]byte, error) {
	e := newEncoder(KindRequest, 512+len(r.Command.Text))
	e.command(r.Command)
	e.streams(r.Streams)
	e.terminal(r.Terminal)
	e.strs(r.Env)
	e.flag(r.Agent)
	e.u16(r.Umask)
	if len(e.b) > MaxFrame || len(r.Command.Text) > MaxCommand || len(r.Command.Args) > maxArgs || len(r.Env) > maxEnv {
		return nil, ErrFrame
	}
	return e.b, nil
}

// DecodeRequest takes a request that a stranger wrote. Names and values in
// Env are as claimed: FilterEnv them again.
func DecodeRequest(frame []byte) (*Request, error) {
	d := newDecoder(frame, KindRequest)
	r := &Request{
		Command:  d.command(),
		Streams:  d.streams(),
		Terminal: d.terminal(),
		Env:      d.strs(maxEnv),
		Agent:    d.flag(),
		Umask:    d.umask(),
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return r, nil
}
