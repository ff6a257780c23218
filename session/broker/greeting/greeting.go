// Package greeting makes what stands above the first prompt of a login on a
// terminal, where policy wants it: the host's message of the day and when the
// user last logged in. sshd and PAM show both by themselves, but neither for a
// forced command.
package greeting

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// A Store remembers each user's last login on a terminal, as lastlog(8) does
// for the host. The zero value remembers nothing.
type Store struct {
	Dir string // a file for each user, named by uid; made when needed, 0700
}

// A login is what is remembered of one. A uid that now has another name is
// another person's, who is not told of it.
type login struct {
	User string     `json:"user"`
	At   time.Time  `json:"at"`
	From netip.Addr `json:"from,omitzero"`
}

// Text returns the greeting of a login that happens now, lines with a newline
// each, at most session.MaxNotice bytes. motd is the path of a file on the host,
// "" for none; last says whether the login before is told, and this one
// remembered. env is the session's environment. What fails is left out: the text
// is good with an error, too.
func (s Store) Text(uid uint32, user, motd string, last bool, env []string) (string, error) {
	var text string
	var errs []error
	if motd != "" {
		message, err := read(motd)
		errs = append(errs, err)
		text = printable(message)
	}
	if last {
		before, err := s.swap(uid, login{User: user, At: time.Now(), From: client(env)})
		errs = append(errs, err)
		if !before.At.IsZero() {
			text += "Last login: " + before.At.Local().Format(time.ANSIC)
			if before.From.IsValid() {
				text += " from " + before.From.String()
			}
			text += "\n"
		}
	}
	return text, errors.Join(errs...)
}

// Forget forgets the user's last login.
func (s Store) Forget(uid uint32) error {
	if s.Dir == "" {
		return nil
	}
	if err := os.Remove(s.file(uid)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s Store) file(uid uint32) string {
	return filepath.Join(s.Dir, strconv.FormatUint(uint64(uid), 10))
}

// swap remembers a login and returns the one before, the zero value if there is
// none of the same user that can be read.
func (s Store) swap(uid uint32, now login) (before login, err error) {
	if text, err := os.ReadFile(s.file(uid)); err == nil && (json.Unmarshal(text, &before) != nil || before.User != now.User) {
		before = login{}
	}
	text, err := json.Marshal(now)
	if err != nil {
		return before, err
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return before, err
	}
	// A file that a power cut left half written is the end of one memory only.
	return before, os.WriteFile(s.file(uid), append(text, '\n'), 0o600)
}

// client returns where the client is, by the first word of SSH_CONNECTION. It is
// the user's own word, and only they are told.
func client(env []string) netip.Addr {
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, "SSH_CONNECTION="); ok {
			word, _, _ := strings.Cut(value, " ")
			addr, _ := netip.ParseAddr(word)
			return addr.WithZone("")
		}
	}
	return netip.Addr{}
}

// read reads a message of the day. A host without one is no error.
func read(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(fmt.Errorf("%s is no regular file", path), err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxMessage))
	return string(text), err
}

// maxMessage leaves room for the last login.
const maxMessage = session.MaxNotice - 128

// printable makes of text what any terminal shows as it is.
func printable(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.ReplaceAll(strings.TrimRight(line, "\r\n"), "\t", "    ")
		line = session.Printable(line, 512) + "\n"
		if b.Len()+len(line) > maxMessage {
			break
		}
		b.WriteString(line)
	}
	return b.String()
}
