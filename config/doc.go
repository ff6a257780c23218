// Package config reads the administrator's file, /etc/carrel/carrel.toml.
//
// It is strict. A file with any mistake in it is refused as a whole, and every
// mistake is named at once, each as "file:line: what is wrong: what to do", so
// that one round of editing is enough. A file that is not there means the
// defaults of [Default], which are safe.
//
// # Life cycle
//
// [Load] opens, checks and parses the file and returns a complete [Config]:
// defaults are filled in and each rule already holds the values that its users
// get, its own on top of the file's. Nobody changes a Config afterwards. Who
// reloads calls Load again and keeps the old Config when that fails.
//
// # What an attacker controls here
//
// Nothing, and Load makes sure of it: the file must be a regular file with one
// name, owned by root and writable by root alone, and is opened without
// following a link and without waiting for a FIFO. The directory that holds it
// is not checked. No file of a user's is ever read as configuration. The texts
// of problems quote what stands in the file, so that a listing of them holds
// printable characters only.
//
// The keys, their defaults and examples are in carrel.toml(5).
package config
