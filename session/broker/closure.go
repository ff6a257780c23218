package broker

import (
	"regexp"
	"time"

	"github.com/carrel-sh/carrel/session"
)

// A Closure keeps new sessions out, for maintenance. Sessions that run stay.
type Closure struct {
	Message    string    `json:"message"` // one printable line for whoever is refused
	AllowFiles bool      `json:"allow_files"`
	Since      time.Time `json:"since"`
}

// Close keeps new sessions out from now on; nil lets them in again.
func (b *Broker) Close(c *Closure) { b.closed.Store(c) }

// Closed returns what keeps new sessions out, nil if nothing does.
func (b *Broker) Closed() *Closure { return b.closed.Load() }

// shut says whether the request comes to a closed door, and what its sender is
// told.
func (b *Broker) shut(r *session.Request) (message string, ok bool) {
	c := b.closed.Load()
	if c == nil || c.AllowFiles && movesFiles(r.Command) {
		return "", false
	}
	if c.Message == "" {
		return "logins are closed for maintenance; please try again later", true
	}
	return c.Message, true
}

// Commands by which sshd has files moved. The sftp subsystem arrives as the
// host's path of its server; scp -O as its own command line.
//
// Their text is the shell's to run, so what could make a second command of it
// is refused. That keeps a login that only moves files from doing more by
// accident; it does not keep a user out who has put something into the start-up
// files of their shell.
var (
	sftpCommand = regexp.MustCompile(`^(/[A-Za-z0-9/_.-]*/)?(sftp-server|internal-sftp)( [A-Za-z0-9/_.=,+ -]*)?$`)
	scpCommand  = regexp.MustCompile(`^scp( -[dprvqC]+)* -[dprvqC]*[tf][dprvqC]*( --)? [A-Za-z0-9/_.,=+@~:% -]+$`)
)

// movesFiles says that the command does nothing but move files.
func movesFiles(c session.Command) bool {
	return c.HasText && len(c.Args) == 0 &&
		(sftpCommand.MatchString(c.Text) || scpCommand.MatchString(c.Text))
}
