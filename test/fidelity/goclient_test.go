//go:build fidelity

package fidelity

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// clientEnv makes this test's own program an SSH client built on
// golang.org/x/crypto/ssh.
const clientEnv = "CARREL_FIDELITY_CLIENT"

// goClient is called with port, user, key, "tty" or "pipe", and a command, ""
// for a login. It ends with the session's status. It tells a signal, which
// other clients fold into a status, as a line on stderr and status 255.
func goClient(args []string) int {
	client, err := dialGo(args[0], args[1], args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		return 254
	}
	defer client.Close()
	err = runGo(client, args[3] == "tty", args[4])
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Signal() != "":
		fmt.Fprintln(os.Stderr, "exit-signal:", exit.Signal())
		return 255
	case errors.As(err, &exit):
		return exit.ExitStatus()
	}
	fmt.Fprintln(os.Stderr, "client:", err)
	return 254
}

func dialGo(port, user, keyFile string) (*ssh.Client, error) {
	pem, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, err
	}
	return ssh.Dial("tcp", net.JoinHostPort("127.0.0.1", port), &ssh.ClientConfig{
		User:            user,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // it is our own, on loopback
	})
}

func runGo(client *ssh.Client, tty bool, command string) error {
	s, err := client.NewSession()
	if err != nil {
		return err
	}
	s.Stdout, s.Stderr = os.Stdout, os.Stderr
	in, err := s.StdinPipe()
	if err != nil {
		return err
	}
	if tty {
		size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err != nil {
			return err
		}
		if err := s.RequestPty(os.Getenv("TERM"), int(size.Row), int(size.Col), nil); err != nil {
			return err
		}
		raw(0)
		winch := make(chan os.Signal, 1)
		signal.Notify(winch, syscall.SIGWINCH)
		go func() {
			for range winch {
				if size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
					_ = s.WindowChange(int(size.Row), int(size.Col))
				}
			}
		}()
	}
	if command == "" {
		err = s.Shell()
	} else {
		err = s.Start(command)
	}
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(in, os.Stdin)
		in.Close()
	}()
	return s.Wait()
}

// raw is cfmakeraw(3), for the terminal that the client runs on.
func raw(fd int) {
	m, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return
	}
	m.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	m.Oflag &^= unix.OPOST
	m.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	_ = unix.IoctlSetTermios(fd, unix.TCSETS, m)
}
