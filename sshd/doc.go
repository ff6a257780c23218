// Package sshd knows OpenSSH's server: the drop-in configuration that keeps it
// from serving the users of Carrel on the host ([DropIn]), what `sshd -T`
// prints ([ParseEffective]), and where a keyword stands in its configuration
// ([ReadConfig]). What is wrong with a host is for package sshd/doctor to say.
//
// # What an attacker controls here
//
// Nothing: the configuration is root's, and sshd refuses to start otherwise.
package sshd
