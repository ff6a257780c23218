package accounts

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Why there is no account. Look-ups wrap these.
var (
	// ErrNotFound: the host knows no such account.
	ErrNotFound = errors.New("no such account")
	// ErrAmbiguous: several names share the uid, or several uids the name.
	ErrAmbiguous = errors.New("several accounts share one name or uid")
	// ErrUnavailable: a directory service did not answer; later it may.
	ErrUnavailable = errors.New("account database does not answer")
)

// An Account is a line of passwd with its groups.
type Account struct {
	Name   string
	UID    uint32
	GID    uint32  // primary
	Groups []Group // the primary first, then the supplementary ones; never shared
	Home   string  // as it stands there; may be anything, even ""
	Shell  string  // as it stands there; "" when the field is empty
}

// A Group is one group of an account.
type Group struct {
	Name string // "" when nobody knows a name for the number
	GID  uint32
}

// A Source is a host's account database. The zero value is this host's. It is
// safe for concurrent use and must not be copied.
type Source struct {
	PasswdPath string // "": /etc/passwd
	GroupPath  string // "": /etc/group
	// Getent is the program that asks directory services, "" for
	// /usr/bin/getent. A host without it has accounts in its files only.
	Getent string

	deadline time.Duration // for all of getent's runs for one account; 0: 5 s

	files   atomic.Pointer[snapshot]
	filesMu sync.Mutex // held while the files are read, so that one reads for all

	nss nssCache
}

// Lookup returns the account of uid.
func (s *Source) Lookup(ctx context.Context, uid uint32) (Account, error) {
	files, err := s.current()
	if err != nil {
		return Account{}, err
	}
	a, err := files.byID(uid)
	if errors.Is(err, ErrNotFound) {
		a, err = s.ask(ctx, fmt.Sprint(uid), func(a Account) bool { return a.UID == uid })
	}
	if err != nil {
		return Account{}, fmt.Errorf("look up uid %d: %w", uid, err)
	}
	return a, nil
}

// LookupName returns the account with the given name.
func (s *Source) LookupName(ctx context.Context, unsafeName string) (Account, error) {
	files, err := s.current()
	if err != nil {
		return Account{}, err
	}
	if !plausibleName(unsafeName) {
		return Account{}, fmt.Errorf("look up %q: %w", unsafeName, ErrNotFound)
	}
	a, err := files.byName(unsafeName)
	if errors.Is(err, ErrNotFound) {
		a, err = s.ask(ctx, unsafeName, func(a Account) bool { return a.Name == unsafeName })
	}
	if err != nil {
		return Account{}, fmt.Errorf("look up %q: %w", unsafeName, err)
	}
	return a, nil
}

// plausibleName reports whether getent would take s for a name: not for a
// number, which it looks up as an id, nor for an option.
func plausibleName(s string) bool {
	return s != "" && len(s) <= maxNameBytes && !strings.ContainsFunc(s, notInName) &&
		s[0] != '-' && s[0] != '+' && (s[0] < '0' || s[0] > '9')
}
