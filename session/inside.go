package session

// What carreld and carrel-init say to each other besides the start of
// sessions. Each is one exchange on a connection of its own, but for Watch,
// whose connection stays.

// Bounds of these frames.
const (
	// MaxTell is the longest text for terminals, in bytes.
	MaxTell = 1024
	// MaxLive is how many sessions a Listing names; an init that runs more
	// lists that many of them.
	MaxLive = 1024
	// MaxEnds is how many ends one Ended tells of.
	MaxEnds = 256
)

// A Live is one session whose first process runs.
type Live struct {
	ID       ID
	PID      uint32 // of the first process, as the container counts
	Started  uint64 // milliseconds since 1970
	Terminal string // such as "/dev/pts/3", "" without one
}

// A Listing answers Sessions.
type Listing struct{ Sessions []Live }

// Sessions asks carrel-init which sessions live.
func Sessions() []byte { return newEncoder(KindSessions, 0).b }

// Encode returns the frame.
func (l *Listing) Encode() []byte {
	live := l.Sessions[:min(len(l.Sessions), MaxLive)]
	e := newEncoder(KindListing, 4+48*len(live))
	e.u32(uint32(len(live)))
	for _, s := range live {
		e.u64(uint64(s.ID))
		e.u32(s.PID)
		e.u64(s.Started)
		e.str(Printable(s.Terminal, 64))
	}
	return e.b
}

// DecodeListing takes a Listing; its texts are printable whoever wrote it.
func DecodeListing(frame []byte) (*Listing, error) {
	d := newDecoder(frame, KindListing)
	l := &Listing{}
	for n := d.count(MaxLive); n > 0 && !d.bad; n-- {
		s := Live{ID: ID(d.u64()), PID: d.u32(), Started: d.u64()}
		s.Terminal = Printable(d.str(), 64)
		l.Sessions = append(l.Sessions, s)
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return l, nil
}

// A Tell is a line for the open terminals of a container.
type Tell struct{ Text string }

// Encode returns the frame.
func (t Tell) Encode() []byte {
	e := newEncoder(KindTell, MaxTell)
	e.str(Printable(t.Text, MaxTell))
	return e.b
}

// DecodeTell takes a Tell. The text is printable and short whoever wrote it.
func DecodeTell(frame []byte) (Tell, error) {
	d := newDecoder(frame, KindTell)
	t := Tell{Text: Printable(d.str(), MaxTell)}
	return t, d.end()
}

// A Told answers a Tell.
type Told struct{ Terminals uint32 } // that took the line

// Encode returns the frame.
func (t Told) Encode() []byte {
	e := newEncoder(KindTold, 4)
	e.u32(t.Terminals)
	return e.b
}

// DecodeTold takes a Told.
func DecodeTold(frame []byte) (Told, error) {
	d := newDecoder(frame, KindTold)
	t := Told{Terminals: d.u32()}
	return t, d.end()
}

// Watch asks carrel-init to keep the connection and to say on it which
// sessions end. The newest connection is the one that counts.
func Watch() []byte { return newEncoder(KindWatch, 0).b }

// An End is one session that ended.
type End struct {
	ID   ID
	Exit Exit
	At   uint64 // milliseconds since 1970
}

// An Ended comes on the connection of a Watch, soon after the sessions ended
// and not at once: nobody waits for it.
type Ended struct{ Ends []End }

// Encode returns the frame.
func (x *Ended) Encode() []byte {
	ends := x.Ends[:min(len(x.Ends), MaxEnds)]
	e := newEncoder(KindEnded, 4+18*len(ends))
	e.u32(uint32(len(ends)))
	for _, end := range ends {
		e.u64(uint64(end.ID))
		e.u8(end.Exit.Status)
		e.u8(end.Exit.Signal)
		e.u64(end.At)
	}
	return e.b
}

// DecodeEnded takes an Ended.
func DecodeEnded(frame []byte) (*Ended, error) {
	d := newDecoder(frame, KindEnded)
	x := &Ended{}
	for n := d.count(MaxEnds); n > 0 && !d.bad; n-- {
		end := End{ID: ID(d.u64()), Exit: Exit{Status: d.u8(), Signal: d.u8()}, At: d.u64()}
		if end.Exit.Signal > 64 {
			d.bad = true
		}
		x.Ends = append(x.Ends, end)
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return x, nil
}

// Awake is what carrelsh sends to carreld when its user gives a sign of life
// after a silence: their container may have been frozen meanwhile. Nobody
// answers it.
func Awake() []byte { return newEncoder(KindAwake, 0).b }

// OwnSocket is where a program in the container asks about the container: it
// sends a command, such as "carrel status", and gets a byte, the exit status,
// and a text.
const OwnSocket = "/run/.carrel/own.sock"

// MaxOwn is the longest such command, and MaxOwnText the longest answer.
const (
	MaxOwn     = 64
	MaxOwnText = 4 << 10
)

// An Ask passes on such a command. Who asks is not in it: it comes out of the
// container that it is about.
type Ask struct {
	Serial uint32 // init's, for the Answer
	Text   string
}

// Encode returns the frame.
func (a Ask) Encode() []byte {
	e := newEncoder(KindAsk, 16+len(a.Text))
	e.u32(a.Serial)
	e.str(a.Text)
	return e.b
}

// DecodeAsk takes an Ask.
func DecodeAsk(frame []byte) (Ask, error) {
	d := newDecoder(frame, KindAsk)
	a := Ask{Serial: d.u32(), Text: d.str()}
	if len(a.Text) > MaxOwn {
		d.bad = true
	}
	return a, d.end()
}

// An Answer is what the asker gets.
type Answer struct {
	Serial uint32
	Status uint8
	Text   string
}

// Encode returns the frame.
func (a Answer) Encode() []byte {
	e := newEncoder(KindAnswer, 16+len(a.Text))
	e.u32(a.Serial)
	e.u8(a.Status)
	e.str(a.Text[:min(len(a.Text), MaxOwnText)])
	return e.b
}

// DecodeAnswer takes an Answer.
func DecodeAnswer(frame []byte) (Answer, error) {
	d := newDecoder(frame, KindAnswer)
	a := Answer{Serial: d.u32(), Status: d.u8(), Text: d.str()}
	if len(a.Text) > MaxOwnText {
		d.bad = true
	}
	return a, d.end()
}
