package session

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	fullListing = Listing{[]Live{{ID: 1 << 50, PID: 7, Started: 1 << 41, Terminal: "/dev/pts/3"}, {ID: 2}}}
	fullEnded   = Ended{[]End{{ID: 1 << 50, Exit: Exit{Status: 7}, At: 1 << 41}, {ID: 2, Exit: Exit{Signal: 9}}}}
)

func TestInsideFramesRoundTrip(t *testing.T) {
	if got, err := DecodeListing(fullListing.Encode()); err != nil || !cmp.Equal(&fullListing, got) {
		t.Errorf("DecodeListing = %+v, %v", got, err)
	}
	if got, err := DecodeEnded(fullEnded.Encode()); err != nil || !cmp.Equal(&fullEnded, got) {
		t.Errorf("DecodeEnded = %+v, %v", got, err)
	}
	if got, err := DecodeTell(Tell{"a line"}.Encode()); err != nil || got.Text != "a line" {
		t.Errorf("DecodeTell = %+v, %v", got, err)
	}
	if got, err := DecodeTold(Told{3}.Encode()); err != nil || got.Terminals != 3 {
		t.Errorf("DecodeTold = %+v, %v", got, err)
	}
	if got, err := DecodeAsk(Ask{7, "carrel status"}.Encode()); err != nil || got != (Ask{7, "carrel status"}) {
		t.Errorf("DecodeAsk = %+v, %v", got, err)
	}
	if got, err := DecodeAnswer(Answer{7, 3, "a\n"}.Encode()); err != nil || got != (Answer{7, 3, "a\n"}) {
		t.Errorf("DecodeAnswer = %+v, %v", got, err)
	}
	for kind, frame := range map[Kind][]byte{KindSessions: Sessions(), KindWatch: Watch(), KindAwake: Awake()} {
		if KindOf(frame) != kind || len(frame) != 2 {
			t.Errorf("frame %x is of kind %d; want %d", frame, KindOf(frame), kind)
		}
	}
}

// TestInsideFramesAreBounded: neither side makes or takes more than it may.
func TestInsideFramesAreBounded(t *testing.T) {
	many := Listing{make([]Live, MaxLive+1)}
	if got, err := DecodeListing(many.Encode()); err != nil || len(got.Sessions) != MaxLive {
		t.Errorf("a listing of too many: %d sessions, %v", len(got.Sessions), err)
	}
	lost := Ended{make([]End, MaxEnds+1)}
	if got, err := DecodeEnded(lost.Encode()); err != nil || len(got.Ends) != MaxEnds {
		t.Errorf("too many ends: %d, %v", len(got.Ends), err)
	}
	if got, err := DecodeTell(Tell{strings.Repeat("x", 2*MaxTell)}.Encode()); err != nil || len(got.Text) != MaxTell {
		t.Errorf("a text too long: %d bytes, %v", len(got.Text), err)
	}
	for name, err := range map[string]error{
		"4 billion sessions": second(DecodeListing([]byte{Version, byte(KindListing), 0xff, 0xff, 0xff, 0xff})),
		"4 billion ends":     second(DecodeEnded([]byte{Version, byte(KindEnded), 0xff, 0xff, 0xff, 0xff})),
		"a signal of 65":     second(DecodeEnded((&Ended{[]End{{Exit: Exit{Signal: 65}}}}).Encode())),
		"a long question":    second(DecodeAsk(Ask{1, strings.Repeat("x", MaxOwn+1)}.Encode())),
		"a byte left over":   second(DecodeTold(append(Told{}.Encode(), 0))),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func FuzzDecodeInside(f *testing.F) {
	f.Add(fullListing.Encode())
	f.Add(fullEnded.Encode())
	f.Add(Tell{"\x1b]0;x\a"}.Encode())
	f.Fuzz(func(t *testing.T, frame []byte) {
		if l, err := DecodeListing(frame); err == nil {
			for _, s := range l.Sessions {
				if s.Terminal != Printable(s.Terminal, 64) {
					t.Errorf("%q reaches the terminal", s.Terminal)
				}
			}
		}
		if x, err := DecodeEnded(frame); err == nil && !bytes.Equal(x.Encode(), frame) {
			t.Errorf("frame %x does not round-trip", frame)
		}
		if tell, err := DecodeTell(frame); err == nil && tell.Text != Printable(tell.Text, MaxTell) {
			t.Errorf("%q reaches the terminal", tell.Text)
		}
	})
}
