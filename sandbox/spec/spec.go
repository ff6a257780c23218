// Package spec says what one container is made of: the order that carreld
// gives to carrel-runtime, in JSON objects on its standard input, and the
// answer on its standard output. Both sides are ours and run as root; what a
// user, an image or a policy contributes has been decided and checked by then.
package spec

import "github.com/carrel-sh/carrel/internal/idmap"

// The descriptors that carrel-runtime inherits besides 0, 1 and 2, and hands on
// to carrel-init under the same numbers. The boxes of Cgroup follow the last
// one there.
const (
	ListenerFD = 3 // SOCK_SEQPACKET, listening
	BootFD     = 4 // a pipe with one session.Boot in it
	FirstBoxFD = 5 // in carrel-init
)

// Create is the order to create and start a container. Cgroup follows it when
// the user's cgroup has been made, which takes about as long as the mounts.
type Create struct {
	ID       string      `json:"id"`       // such as "u1000"
	StateDir string      `json:"stateDir"` // libcontainer's, below /run
	StageDir string      `json:"stageDir"` // an empty directory that everybody may traverse
	UIDMap   []idmap.Map `json:"uidMap"`
	GIDMap   []idmap.Map `json:"gidMap"`
	Hostname string      `json:"hostname"`

	Root Root  `json:"root"`
	Home *Home `json:"home,omitempty"` // nil: no home

	InitPath string `json:"initPath"` // of carrel-init on the host
	// TransferPath is that of carrel-transfer, which is sftp-server and scp for
	// images without; "" for none.
	TransferPath string `json:"transferPath"`
	PtyMax       int    `json:"ptyMax"`
	ShmBytes     int64  `json:"shmBytes"`
	RunBytes     int64  `json:"runBytes"`
}

// Cgroup is where the container goes.
type Cgroup struct {
	Path string `json:"path"` // absolute; init's, and the root of the container's view
	V2   bool   `json:"v2"`
	// Boxes are directories in which init makes the cgroups of sessions. It
	// gets them as descriptors from FirstBoxFD on.
	Boxes []string `json:"boxes"`
}

// Root is the root file system.
type Root struct {
	// Layers are directories with unshifted owners, top first; at least one,
	// at most 127. They are id-mapped and read-only.
	Layers []string `json:"layers"`
	// Upper and Work are the user's own layer and overlayfs's scratch
	// directory beside it, with owners already shifted.
	Upper string `json:"upper"`
	Work  string `json:"work"`
	// Binds are read-only, id-mapped directories of the host.
	Binds []Bind `json:"binds,omitempty"`
}

// A Bind shows a directory of the host inside, read-only.
type Bind struct {
	Source string `json:"source"`
	Target string `json:"target"`
	// Recursive shows what is mounted below Source, too.
	Recursive bool `json:"recursive,omitempty"`
}

// Home is the user's home directory. Of its owners only the user is mapped, so
// that root of the container cannot leave a set-uid file of root's behind
// (CVE-2025-64507).
type Home struct {
	Source string    `json:"source"`
	Target string    `json:"target"`
	UID    idmap.Map `json:"uid"`
	GID    idmap.Map `json:"gid"`
}

// Delete is the order to remove what is left of a container whose init has
// ended.
type Delete struct {
	ID       string `json:"id"`
	StateDir string `json:"stateDir"`
}

// A Probe asks whether a directory answers; it may not.
type Probe struct {
	Path string `json:"path"`
}

// ExitNoSpace is carrel-runtime's exit status when a file system is full; any
// other failure is 1.
const ExitNoSpace = 73 // EX_CANTCREAT of sysexits.h

// Created is the answer to Create.
type Created struct {
	InitPID int `json:"initPid"` // in the host's PID namespace
}
