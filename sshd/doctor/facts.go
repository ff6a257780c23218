package doctor

import (
	"fmt"
	"io/fs"

	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/sandbox/idrange"
	"github.com/carrel-sh/carrel/sshd"
)

// Facts are what the checks go by.
type Facts struct {
	Carrelsh string   // the path that remedies name
	StateDir string   // carreld's; the private homes are in it
	Shells   []string // all paths of carrelsh: the configuration's login shells
	Accounts []Account

	SSHD     SSHD
	PAM      []Place // the lines of /etc/pam.d that count, without comments
	Systemd  bool    // user@.service is installed
	Mailers  []string
	Services []Service

	ListedShells []Place // lines of /etc/shells that name carrelsh
	Files        []File  // with what they should be
	IDs          []idrange.Conflict
	Config       []string // mistakes in carrel.toml
	RootShells   []string // accounts with uid 0 whose shell is carrelsh

	Kernel    Kernel
	Unchecked []string // what could not be read, and why
}

// A Place is a line of a file.
type Place struct {
	File   string
	Number int // from 1
	Text   string
}

func (p Place) String() string { return fmt.Sprintf("%s:%d: %s", p.File, p.Number, p.Text) }

// SSHD is the host's OpenSSH server.
type SSHD struct {
	Present bool
	Lines   []sshd.Line
	RC      bool // /etc/ssh/sshrc exists
	// Stale names what was changed since the running sshd read it; "" when
	// nothing was, or none runs.
	Stale string
}

// An Account is a user of Carrel.
type Account struct {
	Name   string
	UID    uint32
	Dir    string // pw_dir
	Shell  string // pw_shell
	Groups []string
	Why    string // it is one
	// Stranger: it is none, but was asked about. Nothing is fixed for it, or it
	// would be locked into a container.
	Stranger bool
	// ByGroup: it is one by a rule about its group alone, and logs in to the host.
	ByGroup bool

	Home  config.Home // by policy; "" when the policy refuses the account
	Agent bool        // the policy lets ssh -A reach the user's agent
	// Contained reports whether the shell is carrelsh.
	Contained bool
	// WritesDir reports whether the container writes the host's pw_dir.
	WritesDir bool
	// DirProblem says what is wrong with pw_dir itself, "" for nothing.
	DirProblem string
	// DirFiles holds those of the files that the host obeys which exist below
	// pw_dir, with the first lines that matter.
	DirFiles map[string]string
	// Keys are the entries of the account's authorized_keys that have options.
	Keys []Place

	Probes    []Probe
	UserUnit  string // path of the unit user@UID.service; "" when it is masked, or systemd not there
	Lingers   string // path of the file that makes its user manager start at boot; "" for none
	Cron, At  Schedule
	SameUID   []string // other accounts with the uid
	Processes []string // of the uid on the host, that are not the way in
}

// A Probe is the effective configuration of sshd for one connection.
type Probe struct {
	From sshd.Connection
	sshd.Effective
}

// A Schedule says what cron(8) or atd(8) would do for an account.
type Schedule struct {
	Allowed string   // why it may make jobs; "" when it may not, or nothing is installed
	Jobs    []string // that exist
}

// A Service is a program that serves accounts on the host, whatever their
// login shell is.
type Service struct{ Program, What string }

// A File is something of Carrel's on the disk, with what it should be.
type File struct {
	Path string
	What string // it is, as in "the login shell"
	// Kind is what makes it dangerous: one of the kinds of findings.
	Kind string
	Mode fs.FileMode // of the permissions, with set-id bits
	UID  uint32
	// Want is the exact mode, 0: any without write permission for others.
	Want fs.FileMode
	// Severity is that of a wrong mode.
	Severity Severity
}

// Kernel is what the running kernel offers.
type Kernel struct {
	Release    string
	Major      int
	Minor      int
	Missing    []string          // features without which no container starts
	Sysctl     map[string]string // those that matter; a missing one is not there
	CgroupMode string            // "v2", "v1", "hybrid"; "" unknown
	NoLimit    []string          // controllers that are missing: their limits cannot be enforced
}
