package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"time"

	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/sandbox/spec"
)

// A User is whose container it is, as the host's account database says.
type User struct {
	Name   string
	UID    uint32
	GID    uint32
	Groups []Group // supplementary and primary
	Shell  string  // for /etc/passwd inside
}

// A Group is one of a user's groups.
type Group struct {
	Name string // "" when nobody knows one
	GID  uint32
}

// HomeKind says where the home comes from.
type HomeKind string

// The kinds of homes.
const (
	HomePrivate HomeKind = "private" // a directory of Carrel's own, made on the first login
	HomeHost    HomeKind = "host"    // the account's own; see `carrel doctor` before
	HomeNone    HomeKind = "none"    // nothing is mounted; the path is in the user's layer
)

// Limits are those of a user's cgroup.
type Limits = cgroup.Limits

// A Bind is a read-only directory of the host.
type Bind = spec.Bind

// NoSwap as Limits.SwapBytes forbids swap altogether.
const NoSwap = cgroup.NoSwap

// A Spec is all that decides what a container looks like.
type Spec struct {
	User     User
	Hostname string
	Image    string   // name, for people
	ImageID  string   // digest; another one is another container
	Layers   []string // directories, top first, unshifted owners
	Binds    []Bind   // read-only directories of the host
	Home     HomeKind // "" is private
	HomePath string   // where the home is inside, and on the host for HomeHost
	Limits   Limits
	// BestEffort starts the container although the host cannot enforce a
	// limit; which one is in Container.Unenforced. False refuses.
	BestEffort bool
	PtyMax     int // terminals of the container; 0 is 64
	// Idle is for whoever looks after the container; the Manager only keeps it.
	Idle IdleTimes
}

// IdleTimes say when a container that nobody uses is frozen and when it is
// stopped; zero is never.
type IdleTimes struct {
	Freeze time.Duration `json:"freeze,omitempty"`
	Stop   time.Duration `json:"stop,omitempty"`
}

// digest tells specs apart: a running container with another one is outdated.
// Layers and binds are left out, for ImageID stands for them and directories
// may move. It is taken at every login, so it is written out by hand.
func (s *Spec) digest() string {
	h := sha256.New()
	var b []byte
	for _, text := range []string{s.User.Name, s.User.Shell, s.Hostname, s.Image, s.ImageID, string(s.Home), s.HomePath} {
		b = append(strconv.AppendInt(b, int64(len(text)), 10), ':')
		b = append(b, text...)
	}
	numbers := []int64{
		int64(s.User.UID), int64(s.User.GID), int64(s.PtyMax), s.Limits.MemoryBytes, s.Limits.SwapBytes,
		int64(s.Limits.CPUWeight), s.Limits.CPUQuotaMicros, s.Limits.CPUPeriodMicros, s.Limits.Pids,
	}
	if s.BestEffort {
		numbers = append(numbers, 1)
	}
	if s.Idle != (IdleTimes{}) {
		numbers = append(numbers, int64(s.Idle.Freeze), int64(s.Idle.Stop))
	}
	for _, g := range s.User.Groups {
		b = append(append(b, g.Name...), ':')
		numbers = append(numbers, int64(g.GID))
	}
	for _, n := range numbers {
		b = append(strconv.AppendInt(b, n, 10), ',')
	}
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}
