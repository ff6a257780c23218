package config

import (
	"maps"
	"slices"
	"time"
)

// DefaultPath is where the administrator's file lives.
const DefaultPath = "/etc/carrel/carrel.toml"

// A Config is a checked configuration file, complete with defaults.
type Config struct {
	Settings             // what a user gets whom no rule names
	Enforce  Enforcement // what to do about a limit that the host cannot enforce
	// LoginShells are the absolute paths of carrelsh. An account that has one
	// of them as its shell is admitted when no rule matches it. Empty: nobody
	// is admitted without a rule.
	LoginShells []string
	IDs         IDRegion
	Rules       []Rule // in the order of the file; the first match wins
}

// Settings are what one user gets.
type Settings struct {
	Image  string // name of an image of the store, "host" for the host's own /usr
	Shell  string // absolute path inside the container
	Home   Home   // where the home directory comes from
	Limits Limits // of all the user's sessions together
	Linger Linger // what becomes of processes that a session leaves
	// Motd is a file of the host that a login on a terminal shows, "" for none.
	Motd string
	// LastLogin has it show the login before, too.
	LastLogin bool
	// NoAgent refuses agent forwarding (ssh -A).
	NoAgent bool
	Idle    Idle
	// SelfService are the commands about their own container that users may
	// give over their own login.
	SelfService []SelfCommand
	Env         map[string]string // set in every session, on top of Carrel's own; may be nil
}

// clone returns a copy that shares nothing with s.
func (s Settings) clone() Settings {
	s.Env = maps.Clone(s.Env)
	s.SelfService = slices.Clone(s.SelfService)
	return s
}

// Idle says what becomes of a container that nobody uses: no key typed, and
// next to no CPU time taken. Zero is never.
type Idle struct {
	Freeze time.Duration `json:"freeze"` // after this time it stands still until it is used again
	Stop   time.Duration `json:"stop"`   // after this time it ends; not before Freeze
}

// A SelfCommand is one that users may give about their own container.
type SelfCommand string

// The commands.
const (
	SelfStatus   SelfCommand = "status"   // what the container is and uses
	SelfSessions SelfCommand = "sessions" // who else is logged in as them
	SelfReset    SelfCommand = "reset"    // start anew from the image, home kept
)

// Limits are the resources of one user, all sessions together. All but
// CPUQuotaMicros and SwapBytes are positive in a Config that Load returned.
type Limits struct {
	MemoryBytes    int64  `json:"memory_bytes"`     // of RAM
	SwapBytes      int64  `json:"swap_bytes"`       // of swap, besides MemoryBytes; 0: no swap
	CPUWeight      uint64 `json:"cpu_weight"`       // 1 to 10000; the share when the CPUs are busy, 100 is everybody's
	CPUQuotaMicros int64  `json:"cpu_quota_micros"` // of CPU time in each CPUPeriodMicros; 0: no quota
	Pids           int64  `json:"pids"`             // processes and threads
}

// CPUPeriodMicros is the period that Limits.CPUQuotaMicros counts in, the
// kernel's own default of 100 ms.
const CPUPeriodMicros = 100_000

// A Home says where a user's home directory comes from.
type Home string

// The kinds of home directory.
const (
	HomePrivate Home = "private" // a directory of Carrel's own; the host never reads it
	HomeHost    Home = "host"    // the account's pw_dir, shared with the host
	HomeNone    Home = "none"    // no home directory
)

// A Linger says what becomes of the processes that outlive their session.
type Linger string

// The kinds of lingering.
const (
	LingerKeep Linger = "keep" // background jobs, daemons and tmux stay after a logout
	LingerKill Linger = "kill" // everything that was started in the session ends with it
)

// An Enforcement says what happens when the host cannot enforce a limit.
type Enforcement string

// The kinds of enforcement.
const (
	EnforceStrict     Enforcement = "strict"      // the container does not start
	EnforceBestEffort Enforcement = "best-effort" // it starts; the limit is logged and shown as missing
)

// An IDRegion is the part of the host's uids and gids that Carrel hands out to
// containers, in blocks of BlockSize. The first block is the image worker's.
type IDRegion struct {
	First uint32 // a multiple of BlockSize
	Count uint32 // of ids, a multiple of BlockSize
}

// BlockSize is the number of ids of one container.
const BlockSize = 65536

// Contains reports whether id lies in the region.
func (r IDRegion) Contains(id uint32) bool {
	return id >= r.First && id-r.First < r.Count
}

// A Rule says what the accounts that it names get.
type Rule struct {
	Users  []string // account names; "*" names every account
	Groups []string // names of primary or supplementary groups; "*" names every account
	Refuse bool     // the accounts may not log in
	// Message is one line for a refused user, "" for Carrel's own sentence.
	Message string
	// Settings are complete: the file's top level with the rule's own keys on
	// top. Zero when Refuse is set.
	Settings
	Line int // where the rule starts in the file
}

// everybody reports whether the rule matches all accounts.
func (r *Rule) everybody() bool {
	return slices.Contains(r.Users, "*") || slices.Contains(r.Groups, "*")
}

// Default returns the configuration of a host without a file: image "host", a
// private home, moderate limits that are enforced or the login is refused, and
// only accounts whose shell is carrelsh.
//
// The limits suit an interactive user: memory for a build of middling size, no
// swap, so that one user cannot make everybody's disk busy, and twice the
// processes that a parallel build or an editor's language servers start. There
// is no CPU quota, since the weight already shares busy CPUs fairly.
func Default() *Config {
	return &Config{
		Settings: Settings{
			Image:  "host",
			Shell:  "/bin/bash",
			Home:   HomePrivate,
			Linger: LingerKeep,
			Limits: Limits{MemoryBytes: 2 << 30, CPUWeight: 100, Pids: 512},

			SelfService: []SelfCommand{SelfStatus, SelfSessions, SelfReset},
		},
		Enforce:     EnforceStrict,
		LoginShells: []string{"/usr/bin/carrelsh", "/usr/local/bin/carrelsh"},
		IDs:         IDRegion{First: idRegionFirst, Count: idRegionEnd - idRegionFirst},
	}
}

// The default region: above what systemd-nspawn hands out (524288 to
// 1879048191), below systemd's foreign ids (2147352576 to 2147418111) and 2^31,
// where some file systems and tools stop. https://systemd.io/UIDS-GIDS
const (
	idRegionFirst = 1879048192
	idRegionEnd   = 2147352576
)
