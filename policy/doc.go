// Package policy decides who may log in and what they get.
//
// It is pure: a decision depends on the configuration and on the account as
// the kernel and the host's account database name it, and on nothing else. It
// reads no file, no clock and no environment, and keeps no state, so that
// [Policy.Explain] tells an administrator exactly what [Policy.Decide] does.
//
// # Order
//
//  1. The account itself: root, nobody, the ids that mean "no id", ids that
//     Carrel gives to containers, and names that are not names are refused,
//     whatever the rules say.
//  2. The rules, in the order of the file. The first that names the account,
//     or one of its groups, decides.
//  3. Without a rule: the account is admitted if its shell is carrelsh.
//
// # What an attacker controls here
//
// The uid comes from the kernel. Name, groups, home and shell come from the
// host's account database, which on a site with a directory service more people
// than root can write. Names are compared whole, never by prefix or pattern; an
// account's home is checked before it becomes a mount. Nothing that a user's
// session sends (command, environment, terminal) is an input.
//
// Config's types for limits and home directories are part of the decision:
// policy stands directly above config and they would be the same.
package policy
