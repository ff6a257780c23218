// An SSH client on npm's ssh2: port user key tty|pipe command; or sftp "local remote back".
const fs = require('fs');
const { Client } = require('ssh2');
const [port, username, key, kind, command] = process.argv.slice(2);
const conn = new Client();
const fail = (err) => { if (err) { console.error('client:', err.message); process.exit(254); } };
conn.on('error', fail);
conn.on('ready', () => {
  if (kind === 'sftp') {
    const [local, remote, back] = command.split(' ');
    return conn.sftp((err, sftp) => {
      fail(err);
      sftp.fastPut(local, remote, (err) => {
        fail(err);
        sftp.fastGet(remote, back, (err) => {
          fail(err);
          sftp.unlink(remote, (err) => { fail(err); conn.end(); });
        });
      });
    });
  }
  const options = kind === 'tty'
    ? { pty: { term: process.env.TERM, rows: process.stdout.rows, cols: process.stdout.columns } } : {};
  conn.exec(command, options, (err, stream) => {
    fail(err);
    let status = 254;
    stream.on('exit', (code, signal) => {
      if (code === null) { fs.writeSync(2, `exit-signal: ${signal}\n`); code = 255; }
      status = code;
    });
    stream.on('close', () => { conn.end(); process.exitCode = status; process.stdin.destroy(); });
    stream.pipe(process.stdout);
    stream.stderr.pipe(process.stderr);
    process.stdin.pipe(stream);
  });
});
conn.connect({ host: '127.0.0.1', port: Number(port), username, privateKey: fs.readFileSync(key) });
