// Package doctor finds what lets a user of Carrel run something on the host,
// or weakens another of Carrel's promises: the checks behind `carrel doctor`.
//
// # Life cycle
//
// [Gatherer.Gather] reads the host into [Facts], a plain value. [Diagnose] is a
// pure function of the facts and returns findings, each with its evidence and
// a remedy to paste. [Fixer.Fix] applies the remedies that are safe without a
// person's judgement, and never leaves an sshd that refuses its configuration.
// The kinds of findings are one table, [Kinds]; the README's is made of it.
//
// # Who is looked at
//
// Every account whose shell is carrelsh, that is in the group of the drop-in,
// that a rule of carrel.toml names by user or group, or that sshd forces into
// carrelsh. A rule for everybody ("*") names nobody. uid 0 is never a user of
// Carrel.
//
// # What an attacker controls here
//
// The fields of their own passwd line, the command lines and programs of their
// processes, and what is in their home, which root looks into here: below the
// home no link is followed out of it, only regular files are read, and only so
// much of them; the caller makes every text fit for a terminal. A home on
// storage that hangs is given up after a deadline.
//
// Not protected: this reads configuration, it does not try the holes. What a
// service does that is not in the table is not seen, and neither are accounts
// that a directory service does not enumerate, unless they are named.
package doctor
