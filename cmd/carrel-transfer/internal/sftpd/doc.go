// Package sftpd is an SFTP server on two streams that stands in for OpenSSH's
// sftp-server: github.com/pkg/sftp with a front in between.
//
//	client ──request──▶ front ──request──▶ library
//	                      │ ◀────reply─────  │
//	   ◀────reply─────────┴─(or the front's own)
//
// The front answers what the library answers in another way than OpenSSH's
// server, where a user would notice or come to harm:
//
//   - MKDIR with a mode: the library makes every directory 0755, so what
//     `mkdir -m 700` makes over sshfs would be open to others;
//   - RENAME onto a file that is there: the library overwrites it, the
//     protocol's draft and OpenSSH refuse;
//   - REMOVE of a directory and RMDIR of a file, which the library carries out;
//   - REALPATH, which the library does not resolve, so that a client that
//     entered a symbolic link would believe to be in another place;
//   - the options -P and -p, which deny requests by name, and the list of
//     extensions that goes with them;
//   - the extension expand-path@openssh.com, which scp needs for ~user.
//
// Replies of the front come only after the library has answered all that was
// asked before, so that requests take effect in their order.
//
// What a stranger controls is every byte that comes in. The server has the
// rights of the user that it runs as; it confines nobody, as OpenSSH's does
// not. The options -R, -P and -p bind a client that can do nothing but SFTP.
package sftpd
