// Package accounts finds the account of a uid in the host's account database.
//
// The files passwd and group come first, read directly and kept parsed until
// they change: a warm look-up costs two stat(2). An account that is not in them
// is asked of getent(1), which knows the host's directory services (NSS) and
// can be killed when they hang; the answer is kept for a minute. Go's os/user
// is no choice: without cgo it reads the files anew each time and knows no
// NSS, with cgo a hanging directory service hangs a thread for good.
//
// # What an attacker controls here
//
// Users change fields of their own line (chfn, chsh), and on many sites a
// directory service fills all of them. So each field is checked for form, the
// size of everything is bounded, and a line with a mistake in it is as good as
// not there: in particular, a number that is none never becomes 0, as it does
// in other parsers. Whether a name, a home or an id is acceptable is for
// package policy to say.
//
// A uid with several names is an error, [ErrAmbiguous]: one of them could be
// an alias that somebody made to get another's container. For an account in
// the files, groups of directory services are not looked up, and a second name
// that only a directory service has is not noticed.
package accounts
