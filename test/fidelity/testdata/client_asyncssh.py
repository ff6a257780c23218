"""An SSH client on asyncssh: port user key tty|pipe command; or sftp local remote back."""
import asyncio, os, sys, warnings

warnings.simplefilter("ignore")
import asyncssh

port, user, key, kind, command = sys.argv[1:6]


async def main():
    async with asyncssh.connect("127.0.0.1", int(port), username=user, client_keys=[key], known_hosts=None,
                                agent_path=None, config=None) as conn:
        if kind == "sftp":
            local, remote, back = command.split()
            async with conn.start_sftp_client() as sftp:
                await sftp.put(local, remote)
                await sftp.get(remote, back)
                await sftp.remove(remote)
            return 0
        options = {"encoding": None, "stdin": os.fdopen(os.dup(0), "rb"),
                   "stdout": os.fdopen(os.dup(1), "wb"), "stderr": os.fdopen(os.dup(2), "wb")}  # it closes them
        if kind == "tty":
            size = os.get_terminal_size(0)
            options.update(term_type=os.environ["TERM"], term_size=(size.columns, size.lines))
        process = await conn.create_process(command, **options)
        result = await process.wait()
        if result.exit_signal:
            print("exit-signal:", result.exit_signal[0], file=sys.stderr)
            return 255
        return result.exit_status

os._exit(asyncio.run(main()))
