// Package fidelity holds one conformance suite: does a session of Carrel's
// behave like a plain shell account?
//
// A row of the suite is a feature, a door is a way in: an entry mode (the
// passwd shell under OpenSSH, ForceCommand, `su -`, carrelsh called directly)
// and a client. Each feature is measured at each door that can show it. The
// oracle is a plain /bin/bash account behind the same door: where a check can,
// it runs both and compares.
//
// What was measured is written as a table, feature × entry mode × client, and
// held against the README; `go test ./test/fidelity -update` writes it anew. A
// cell that is "no" has its explanation there, or the test fails, as it does
// when a cell that was "no" has become "yes".
//
// CARREL_LONG=1 makes the streams longer and the crowd larger, and runs all of
// OpenSSH's own tests; see `make test-long`.
//
// packages.txt lists the Debian packages that the suite needs besides what the
// other tests need, one a line.
package fidelity
