// Carrel-transfer is the remote end of scp, sftp and sshfs for images that
// have no program for it. It is bound read-only into every container, runs
// there as the user, and goes by the name that it is called by. See
// carrel-transfer(8).
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/cmd/carrel-transfer/internal/scp"
	"github.com/carrel-sh/carrel/cmd/carrel-transfer/internal/sftpd"
)

const usage = `usage: sftp-server [options]
       scp -t|-f [-dpqrv] [--] path ...

carrel-transfer is the remote end of sftp and scp, and runs under those names.
See carrel-transfer(8).
`

func main() {
	// A client that is gone is an error of write(2), and a status of ours.
	signal.Ignore(unix.SIGPIPE)
	name := ""
	if len(os.Args) > 0 {
		name = filepath.Base(os.Args[0])
	}
	switch name {
	case "sftp-server":
		os.Exit(sftpd.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	case "scp":
		os.Exit(scp.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	fmt.Fprint(os.Stderr, usage)
	os.Exit(64) // EX_USAGE, as carrelsh(1)
}
