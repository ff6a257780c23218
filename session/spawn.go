package session

import "strings"

// An ID names one session of one container in logs and cgroups. It is unique
// while carreld keeps its state and carries no right.
type ID uint64

// A Spawn is what carreld tells carrel-init to run. All of it is decided; init
// adds nothing and asks nobody.
type Spawn struct {
	ID      ID
	User    string // name, for argv and logs
	UID     uint32 // as the container counts
	GID     uint32
	Groups  []uint32 // supplementary; all mapped
	Home    string   // cwd; "/" is used when it cannot be entered
	Shells  []string // the wanted shell, then what to fall back to; absolute; at most 8
	Command Command
	Streams Streams
	// Terminal is used when Streams.Tty.
	Terminal Terminal
	Env      []string // complete but for SHELL, SSH_TTY and SSH_AUTH_SOCK, which init knows best
	// Agent gives the session the container's agent socket, whose connections
	// go to the newest live session that has it.
	Agent bool
	// KillRest ends, with the session's first process, everything that was
	// started in the session; false leaves what has left it, such as daemons.
	KillRest bool
	Umask    uint16
}

// Encode returns the frame, ErrFrame if it is over a bound.
func (s *Spawn) Encode() ([]byte, error) {
	e := newEncoder(KindSpawn, 1024+len(s.Command.Text))
	e.u64(uint64(s.ID))
	e.str(s.User)
	e.u32(s.UID)
	e.u32(s.GID)
	e.u32(uint32(len(s.Groups)))
	for _, g := range s.Groups {
		e.u32(g)
	}
	e.str(s.Home)
	e.strs(s.Shells)
	e.command(s.Command)
	e.streams(s.Streams)
	e.terminal(s.Terminal)
	e.strs(s.Env)
	e.flag(s.Agent)
	e.flag(s.KillRest)
	e.u16(s.Umask)
	if len(e.b) > MaxFrame || len(s.Groups) > maxGroups {
		return nil, ErrFrame
	}
	return e.b, nil
}

// DecodeSpawn takes a Spawn.
func DecodeSpawn(frame []byte) (*Spawn, error) {
	d := newDecoder(frame, KindSpawn)
	s := &Spawn{ID: ID(d.u64()), User: d.str(), UID: d.u32(), GID: d.u32()}
	for n := d.count(maxGroups); n > 0 && !d.bad; n-- {
		s.Groups = append(s.Groups, d.u32())
	}
	s.Home = d.str()
	s.Shells = d.strs(maxShells)
	s.Command = d.command()
	s.Streams = d.streams()
	s.Terminal = d.terminal()
	s.Env = d.strs(maxEnv)
	s.Agent = d.flag()
	s.KillRest = d.flag()
	s.Umask = d.umask()
	if err := d.end(); err != nil {
		return nil, err
	}
	return s, nil
}

// A Reply answers a Request or a Spawn. With a zero Failure it comes with
// Streams.Descriptors() descriptors: the control socket; then the terminal's
// master, and the read end of stderr if that is split; or the write end of
// stdin and the read ends of stdout and stderr. The receiver owns them.
type Reply struct {
	// Failure says why there is no session; zero if there is one.
	Failure Failure
	// Shell is the shell that runs instead of the wanted one, "" if the wanted
	// one runs.
	Shell string
	// Notice is text for a person at the terminal, above the first prompt: lines
	// that are printable, each with a newline; may be empty. Only carreld's counts.
	Notice string
	// Detail is a name that the sentence for Failure speaks of, such as that
	// of an image; printable, may be empty.
	Detail string
}

// Encode returns the frame.
func (r *Reply) Encode() []byte {
	e := newEncoder(KindReply, 64)
	e.u8(uint8(r.Failure))
	e.str(Printable(r.Shell, 256))
	e.str(Printable(r.Detail, 256))
	e.str(lines(r.Notice))
	return e.b
}

// DecodeReply takes a Reply; its texts are printable whoever wrote it.
func DecodeReply(frame []byte) (*Reply, error) {
	d := newDecoder(frame, KindReply)
	r := &Reply{Failure: Failure(d.u8()), Shell: d.str(), Detail: d.str(), Notice: d.str()}
	if err := d.end(); err != nil {
		return nil, err
	}
	r.Shell, r.Detail, r.Notice = Printable(r.Shell, 256), Printable(r.Detail, 256), lines(r.Notice)
	return r, nil
}

// lines makes text printable line by line, within MaxNotice.
func lines(text string) string {
	all := strings.Split(text[:min(len(text), MaxNotice)], "\n")
	for i := range all {
		all[i] = Printable(all[i], MaxNotice)
	}
	return strings.Join(all, "\n")
}
