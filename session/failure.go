package session

// A Failure says why there is no session, or no more. It is a code, not a
// text, so that what crosses a socket cannot write on a terminal; the sentence
// is made where it is shown. The zero value is no failure.
type Failure uint8

// The failures. Their numbers are part of the protocol and never change.
const (
	None           Failure = iota
	Usage                  // carrelsh was called in a way it does not know
	NoDaemon               // nobody listens on the login socket
	NoAnswer               // carreld or the container did not answer in time
	Internal               // a fault of ours; the log has the cause
	StartFailed            // the container could not be started
	NoSpace                // disk or inodes full
	SessionLost            // the container ended under the session
	Busy                   // too many logins of this user at once
	Protocol               // a malformed frame, or another version
	Refused                // policy refuses this user
	NoImage                // the image is not in the store
	HomeUnusable           // the home cannot be used as policy says
	Setuid                 // carrelsh was made set-uid or set-gid
	NoShell                // no shell in the image
	NotExecutable          // the shell or loader cannot be executed
	LimitsUnmet            // a limit cannot be enforced on this host
	ProcessLimit           // the user's process limit is reached
	TooLong                // the command or environment is too long
	UnknownAccount         // the uid has no account, or several
)

// A verdict is what a failure means outside.
type verdict struct {
	status   int    // exit status of carrelsh, after sysexits.h where one fits
	sentence string // for the user; %s stands for the detail
}

var verdicts = [...]verdict{
	None:           {0, ""},
	Usage:          {64, "usage: carrelsh [-l] [-c COMMAND [NAME [ARG]...]]"},
	NoDaemon:       {69, "your login service is not running; please tell the administrator (carreld is down)"},
	NoAnswer:       {69, "your login service does not answer; please try again in a minute, or tell the administrator"},
	Internal:       {70, "something went wrong on this host; the administrator finds the cause in the log"},
	StartFailed:    {71, "your container could not be started; the administrator finds the cause in the log"},
	NoSpace:        {73, "the disk of this host is full, so your container could not be started; please tell the administrator"},
	SessionLost:    {74, "your session was ended: its container was stopped"},
	Busy:           {75, "too many of your logins are under way at once; please try again in a moment"},
	Protocol:       {76, "your login service speaks another version; please log in again, or tell the administrator"},
	Refused:        {77, "you may not log in here"},
	NoImage:        {66, "your container's image%s is not installed; please tell the administrator"},
	HomeUnusable:   {79, "your home directory cannot be used%s; please tell the administrator"},
	Setuid:         {78, "refusing to run set-uid or set-gid; the administrator should run: chmod ug-s on carrelsh"},
	NoShell:        {127, "your container's image has no shell%s; please tell the administrator"},
	NotExecutable:  {126, "the shell%s of your container cannot be executed; please tell the administrator"},
	LimitsUnmet:    {71, "this host cannot enforce your limits, so your container was not started; please tell the administrator"},
	ProcessLimit:   {75, "your container has reached its process limit; end some of your processes, or ask the administrator for: carrel stop"},
	TooLong:        {126, "the command or its environment is too long"},
	UnknownAccount: {77, "this account is not known to the host, or its id is shared by several names; please tell the administrator"},
}

// Status returns the exit status by which carrelsh reports f.
func (f Failure) Status() int {
	if int(f) >= len(verdicts) {
		return verdicts[Internal].status
	}
	return verdicts[f].status
}

// Sentence returns one plain sentence for the user, without a newline. detail
// is the Reply's and may be empty; for Refused it is the sentence itself.
func (f Failure) Sentence(detail string) string {
	text := verdicts[Internal].sentence
	if int(f) < len(verdicts) {
		text = verdicts[f].sentence
	}
	if f == Refused && detail != "" {
		return detail
	}
	for i := 0; i+1 < len(text); i++ {
		if text[i] == '%' && text[i+1] == 's' {
			if detail != "" {
				detail = " (" + detail + ")"
			}
			return text[:i] + detail + text[i+2:]
		}
	}
	return text
}

// Error makes a Failure an error; the sentence names no detail.
func (f Failure) Error() string { return f.Sentence("") }
