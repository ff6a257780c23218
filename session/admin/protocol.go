package admin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/session/events"
)

// Version of the protocol. It only goes up; a server answers its own only.
const Version = 1

const (
	maxRequestBytes  = 64 << 10
	maxResponseBytes = 16 << 20 // of some ten thousand containers
)

// An Op is what a request asks for.
type Op string

// The operations. Those of the second group act on users.
const (
	OpPS          Op = "ps"          // list the containers
	OpTop         Op = "top"         // the same, without asking their inits
	OpStatus      Op = "status"      // say who answers
	OpKnown       Op = "known"       // list the uids that have files here
	OpEvents      Op = "events"      // what happened; many answers
	OpMaintenance Op = "maintenance" // keep new sessions out, or ask whether they are

	OpInspect Op = "inspect" // all that is known of containers
	OpStop    Op = "stop"    // stop containers; their users' data stays
	OpKill    Op = "kill"    // send a signal to what runs in containers
	OpFreeze  Op = "freeze"  // suspend containers until OpThaw
	OpThaw    Op = "thaw"    // let frozen containers run on
	OpWall    Op = "wall"    // write a line to the open terminals
	OpReset   Op = "reset"   // stop containers and discard their layers
	OpRemove  Op = "rm"      // the same, and the home if wanted
)

// A Request is what the client sends.
type Request struct {
	Version int `json:"version"`
	Op      Op  `json:"op"`
	// Users are account names or decimal uids. OpReset and OpRemove, whose
	// users may have no container that knows a name, take uids alone.
	Users []string `json:"users,omitempty"`
	// All is every container, or for OpReset and OpRemove everybody who has
	// files; without Users.
	All bool `json:"all,omitempty"`

	Signal  int    `json:"signal,omitempty"`         // OpKill: 1 to 64
	Session uint64 `json:"session,string,omitempty"` // OpKill: of this session alone
	Home    bool   `json:"home,omitempty"`           // OpRemove: the private home, too
	Message string `json:"message,omitempty"`        // OpWall

	Events      *EventQuery  `json:"events,omitempty"`      // OpEvents
	Maintenance *Maintenance `json:"maintenance,omitempty"` // OpMaintenance; nil asks
}

// An EventQuery says which events are wanted. Zero fields exclude none.
type EventQuery struct {
	UIDs   []uint32      `json:"uids,omitempty"`
	Kinds  []events.Kind `json:"kinds,omitempty"`
	Since  time.Time     `json:"since,omitzero"`
	Follow bool          `json:"follow,omitempty"` // and those that come, until the client hangs up
}

// Wants says that e is one of those.
func (q *EventQuery) Wants(e events.Event) bool {
	return (len(q.UIDs) == 0 || slices.Contains(q.UIDs, e.UID)) &&
		(len(q.Kinds) == 0 || slices.Contains(q.Kinds, e.Kind)) && !e.Time.Before(q.Since)
}

// Maintenance says whether new sessions are kept out.
type Maintenance struct {
	On         bool      `json:"on"`
	Message    string    `json:"message,omitempty"`     // for whoever is refused
	AllowFiles bool      `json:"allow_files,omitempty"` // sftp and scp go on
	Since      time.Time `json:"since,omitzero"`        // the server's word
}

// A Response is what the server answers: a Failure, or what the operation has
// to say.
type Response struct {
	Version     int           `json:"version"`
	Failure     *Failure      `json:"failure,omitempty"`
	Containers  []Container   `json:"containers,omitempty"` // OpPS and OpTop, by user
	Results     []Result      `json:"results,omitempty"`    // of what acts on users
	Details     []Detail      `json:"details,omitempty"`    // OpInspect
	Known       []uint32      `json:"known,omitempty"`      // OpKnown
	Maintenance *Maintenance  `json:"maintenance,omitempty"`
	Event       *events.Event `json:"event,omitempty"` // OpEvents; one in each line
	Status      *Status       `json:"status,omitempty"`
}

// A Code says why a request failed.
type Code string

// The codes.
const (
	CodeDenied   Code = "denied"   // the caller is not root
	CodeInvalid  Code = "invalid"  // not a request of this version
	CodeInternal Code = "internal" // carreld could not do it; its log has the cause
)

// A Failure is the answer to a request that failed as a whole.
type Failure struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// Error returns the message.
func (f *Failure) Error() string { return f.Message }

// A State says how a container is.
type State string

// The states.
const (
	StateStarting     State = "starting"
	StateRunning      State = "running"
	StateStopping     State = "stopping"
	StateUnresponsive State = "unresponsive" // its init does not answer
	StateFrozen       State = "frozen"       // for idleness; the next login thaws it
	StateSuspended    State = "suspended"    // frozen by root
)

// A Container is one user's.
type Container struct {
	User        string    `json:"user"`
	UID         uint32    `json:"uid"`
	Image       string    `json:"image"`
	State       State     `json:"state"`
	Started     time.Time `json:"started"`
	Sessions    int       `json:"sessions"`     // as its init says
	InitPID     int       `json:"init_pid"`     // on the host
	MemoryBytes int64     `json:"memory_bytes"` // in use now
	SwapBytes   int64     `json:"swap_bytes"`   // in use now, beyond memory
	CPUMicros   int64     `json:"cpu_micros"`   // taken since the start
	Pids        int64     `json:"pids"`         // in use now
	Limits      Limits    `json:"limits"`
	Unenforced  []string  `json:"unenforced,omitempty"` // limits that the host cannot enforce, in words
	RangeFirst  uint32    `json:"range_first"`          // first id of the user's range on the host
}

// Limits are what a container was given. A zero is no limit, except for swap.
type Limits struct {
	MemoryBytes    int64  `json:"memory_bytes"`
	SwapBytes      int64  `json:"swap_bytes"`
	CPUWeight      uint64 `json:"cpu_weight"`
	CPUQuotaMicros int64  `json:"cpu_quota_micros"` // in each 100 ms
	Pids           int64  `json:"pids"`
}

// A Detail is all that is known of one container.
type Detail struct {
	Container
	ImageID      string    `json:"image_id"`
	Cgroup       string    `json:"cgroup"` // path in each hierarchy
	Layer        string    `json:"layer"`  // directory of the host with what the user changed
	Home         string    `json:"home"`   // path inside
	Used         time.Time `json:"used"`   // last sign of use
	FreezeAfter  string    `json:"freeze_after"`
	StopAfter    string    `json:"stop_after"`
	OOMKills     int64     `json:"oom_kills"` // processes killed for memory since the start
	SessionList  []Session `json:"session_list"`
	Processes    []Process `json:"processes"`
	SessionsNote string    `json:"sessions_note,omitempty"` // why there is no list
}

// A Session is a login that is under way.
type Session struct {
	ID       uint64    `json:"id,string"`
	PID      int       `json:"pid"` // of its first process, as the container counts
	Started  time.Time `json:"started"`
	Terminal string    `json:"terminal,omitempty"`
}

// A Process is one of a container's.
type Process struct {
	PID  int    `json:"pid"`  // on the host
	Name string `json:"name"` // what it calls itself
}

// A Result is what became of one user that an operation was about.
type Result struct {
	User  string `json:"user"`            // the container's, or what the request named
	UID   uint32 `json:"uid,omitempty"`   // 0 when there was nothing
	Ran   bool   `json:"ran"`             // there was something to act on
	Count int    `json:"count,omitempty"` // of processes signalled, or terminals written to
	Error string `json:"error,omitempty"` // why it did not happen; "" also when there was nothing
}

// Status says who answers.
type Status struct {
	Version    string    `json:"version"` // of carreld
	PID        int       `json:"pid"`
	Started    time.Time `json:"started"`
	Containers int       `json:"containers"`
}

var errTooLong = errors.New("line is too long")

// readLine returns the one line of r without its end; more than limit bytes
// are errTooLong.
func readLine(r io.Reader, limit int) ([]byte, error) {
	line, err := bufio.NewReaderSize(io.LimitReader(r, int64(limit)+1), 4096).ReadBytes('\n')
	if len(line) > limit {
		return nil, errTooLong
	}
	if err != nil {
		return nil, fmt.Errorf("read line: %w", err)
	}
	return line, nil
}

// decodeRequest decodes a line strictly and checks what it asks for.
func decodeRequest(line []byte) (Request, error) {
	// Of the version first: another one may have other fields.
	var of struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(line, &of); err != nil {
		return Request{}, err
	}
	if of.Version != Version {
		return Request{}, fmt.Errorf("protocol version %d is not %d; use the carrel of the same release as carreld", of.Version, Version)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	var r Request
	if err := d.Decode(&r); err != nil {
		return Request{}, err
	}
	return r, r.check()
}

// acts says that an operation is about users.
func (o Op) acts() bool {
	switch o {
	case OpInspect, OpStop, OpKill, OpFreeze, OpThaw, OpWall, OpReset, OpRemove:
		return true
	}
	return false
}

// files says that an operation is about what users have on disk.
func (o Op) files() bool { return o == OpReset || o == OpRemove }

// check refuses what the operation does not take.
func (r Request) check() error {
	switch r.Op {
	case OpPS, OpTop, OpStatus, OpKnown, OpEvents, OpMaintenance:
		if len(r.Users) > 0 || r.All {
			return fmt.Errorf("operation %q takes no users", r.Op)
		}
	default:
		if !r.Op.acts() {
			return fmt.Errorf("operation %.32q is not known", r.Op)
		}
		if (len(r.Users) > 0) == r.All {
			return fmt.Errorf("%s takes users, or all", r.Op)
		}
	}
	switch {
	case (r.Op == OpKill) != (r.Signal != 0), r.Signal < 0, r.Signal > 64:
		return errors.New("a signal is 1 to 64, and kill's alone")
	case r.Session != 0 && r.Op != OpKill, r.Home && r.Op != OpRemove:
		return fmt.Errorf("operation %q takes neither session nor home", r.Op)
	case (r.Op == OpWall) != (r.Message != ""), len(r.Message) > session.MaxTell:
		return fmt.Errorf("a message of up to %d bytes is wall's, and its alone", session.MaxTell)
	case (r.Op == OpEvents) != (r.Events != nil), r.Maintenance != nil && r.Op != OpMaintenance:
		return fmt.Errorf("operation %q has the wrong parameters", r.Op)
	case r.Maintenance != nil && len(r.Maintenance.Message) > maxMessage:
		return fmt.Errorf("the message is longer than %d bytes", maxMessage)
	}
	return nil
}

// maxMessage is what a refused login's Reply carries.
const maxMessage = 256
