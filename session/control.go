package session

// A Signal is sent by carrelsh to the session's foreground process group, or
// to the group of its first process where there is no terminal.
type Signal struct{ Number uint8 } // 1..64, signal(7)

// Encode returns the frame.
func (s Signal) Encode() []byte {
	e := newEncoder(KindSignal, 1)
	e.u8(s.Number)
	return e.b
}

// DecodeSignal takes a Signal; 0 and numbers over 64 are ErrFrame.
func DecodeSignal(frame []byte) (Signal, error) {
	d := newDecoder(frame, KindSignal)
	s := Signal{Number: d.u8()}
	if s.Number == 0 || s.Number > 64 {
		d.bad = true
	}
	return s, d.end()
}

// An Exit says how the session's first process ended: by a signal if Signal
// is not 0, else with Status.
type Exit struct {
	Status uint8
	Signal uint8
}

// Encode returns the frame.
func (x Exit) Encode() []byte {
	e := newEncoder(KindExit, 2)
	e.u8(x.Status)
	e.u8(x.Signal)
	return e.b
}

// DecodeExit takes an Exit.
func DecodeExit(frame []byte) (Exit, error) {
	d := newDecoder(frame, KindExit)
	x := Exit{Status: d.u8(), Signal: d.u8()}
	if x.Signal > 64 {
		d.bad = true
	}
	return x, d.end()
}

// Agent is the frame that comes with a connection to the container's agent
// socket: carrelsh relays it to the user's agent.
func Agent() []byte { return newEncoder(KindAgent, 0).b }

// Ping and Pong are the frames by which carreld sees that an init answers.
func Ping() []byte { return newEncoder(KindPing, 0).b }

// A Pong answers a Ping.
type Pong struct{ Sessions uint32 } // sessions whose first process lives

// Encode returns the frame.
func (p Pong) Encode() []byte {
	e := newEncoder(KindPong, 4)
	e.u32(p.Sessions)
	return e.b
}

// DecodePong takes a Pong.
func DecodePong(frame []byte) (Pong, error) {
	d := newDecoder(frame, KindPong)
	p := Pong{Sessions: d.u32()}
	return p, d.end()
}
