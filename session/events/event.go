package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/carrel-sh/carrel/session"
)

// A Kind says what happened.
type Kind string

// The kinds.
const (
	Start       Kind = "start"       // a container started
	Stop        Kind = "stop"        // a container ended, however
	Login       Kind = "login"       // a session began
	Logout      Kind = "logout"      // a session's first process ended
	Refused     Kind = "refused"     // a login got no session
	OOM         Kind = "oom"         // processes were killed for memory
	Pids        Kind = "pids"        // forks failed for the number of processes
	Freeze      Kind = "freeze"      // a container was frozen
	Thaw        Kind = "thaw"        // and thawed
	Kill        Kind = "kill"        // root signalled processes
	Reset       Kind = "reset"       // a container's layer was discarded
	Remove      Kind = "remove"      // a user's files were deleted
	Wall        Kind = "wall"        // root wrote to terminals
	Home        Kind = "home"        // a home could not be used
	Maintenance Kind = "maintenance" // logins were closed or opened
	Lost        Kind = "lost"        // events were not kept
)

// Kinds lists them all.
var kinds = []Kind{
	Start, Stop, Login, Logout, Refused, OOM, Pids, Freeze, Thaw, Kill, Reset, Remove, Wall, Home, Maintenance, Lost,
}

// Known says that k is one of the kinds.
func Known(k Kind) bool { return slices.Contains(kinds, k) }

// Kinds returns all kinds.
func Kinds() []Kind { return slices.Clone(kinds) }

// An Event is something that happened. Its zero Time is when it is added.
type Event struct {
	Time    time.Time  `json:"time"`
	Kind    Kind       `json:"event"`
	User    string     `json:"user,omitempty"`
	UID     uint32     `json:"uid,omitempty"` // 0: of no user
	Session session.ID `json:"session,string,omitempty"`
	Detail  string     `json:"detail,omitempty"` // a few words for people
}

// maxDetail bounds the text of one event.
const maxDetail = 512

// Line returns the line of the file, printable ASCII with a newline.
func (e Event) Line() []byte {
	e.User, e.Detail = session.Printable(e.User, 64), session.Printable(e.Detail, maxDetail)
	e.Time = e.Time.UTC().Round(time.Millisecond)
	line, err := json.Marshal(e)
	if err != nil { // a year of five digits
		e.Time = time.Unix(0, 0).UTC()
		line, _ = json.Marshal(e)
	}
	return append(ascii(line), '\n')
}

// ascii escapes what of JSON's text is not ASCII.
func ascii(text []byte) []byte {
	if !slices.ContainsFunc(text, func(b byte) bool { return b >= utf8.RuneSelf }) {
		return text
	}
	return []byte(asciiQuote(bytes.ToValidUTF8(text, []byte("?"))))
}

func asciiQuote(text []byte) string {
	var out bytes.Buffer
	for _, r := range string(text) {
		switch {
		case r < utf8.RuneSelf:
			out.WriteByte(byte(r))
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}

// decode takes a line of the file.
func decode(line []byte) (Event, error) {
	var e Event
	err := json.Unmarshal(line, &e)
	return e, err
}

// String is the event for people, on one line.
func (e Event) String() string {
	s := string(e.Kind)
	if e.Session != 0 {
		s += " s" + strconv.FormatUint(uint64(e.Session), 10)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}
