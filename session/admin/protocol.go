package admin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Version of the protocol. It only goes up; a server answers its own only.
const Version = 1

const (
	maxRequestBytes  = 64 << 10
	maxResponseBytes = 16 << 20 // of some ten thousand containers
)

// An Op is what a request asks for.
type Op string

// The operations.
const (
	OpPS     Op = "ps"     // list the containers
	OpStop   Op = "stop"   // stop containers; their users' data stays
	OpStatus Op = "status" // say who answers
)

// A Request is what the client sends.
type Request struct {
	Version int `json:"version"`
	Op      Op  `json:"op"`
	// Users are account names or decimal uids; for OpStop only.
	Users []string `json:"users,omitempty"`
	// All stops every container; for OpStop only, and without Users.
	All bool `json:"all,omitempty"`
}

// A Response is what the server answers: a Failure, or what the operation has
// to say.
type Response struct {
	Version    int         `json:"version"`
	Failure    *Failure    `json:"failure,omitempty"`
	Containers []Container `json:"containers,omitempty"` // OpPS, by user
	Stopped    []Stopped   `json:"stopped,omitempty"`    // OpStop
	Status     *Status     `json:"status,omitempty"`     // OpStatus
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

// Stopped is what became of one container that should stop.
type Stopped struct {
	User  string `json:"user"`            // the container's, or what the request named
	UID   uint32 `json:"uid,omitempty"`   // 0 when none ran
	Ran   bool   `json:"ran"`             // there was a container
	Error string `json:"error,omitempty"` // why it did not stop; "" also when none ran
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

// check refuses what the operation does not take.
func (r Request) check() error {
	switch r.Op {
	case OpPS, OpStatus:
		if len(r.Users) > 0 || r.All {
			return fmt.Errorf("operation %q takes no users", r.Op)
		}
	case OpStop:
		if (len(r.Users) > 0) == r.All {
			return errors.New("stop takes users, or all")
		}
	default:
		return fmt.Errorf("operation %.32q is not known", r.Op)
	}
	return nil
}
