//! Uploads by the real Samba, from a real client to a server on the loopback device with the manual's share.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::common::*;
use crate::manual::recipe;
use crate::users;

/// A server of a queue, for guests, who are the user `nobody`.
struct Samba {
    server: Child,
    port: u16,
    config: PathBuf,
}

impl Samba {
    /// Shares the queue `inbox` of a mount. What the server needs is in the mount's scratch directory.
    fn new(m: &Mount) -> Samba {
        let dir = m.scratch();
        let run = dir.join("samba");
        fs::create_dir(&run).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = run.display();
        let share = recipe("Uploads by Samba 2").replace("/srv/mq", m.path().to_str().unwrap());
        let config = dir.join("smb.conf");
        let lines = format!(
            "[global]\nserver role = standalone\nmap to guest = Bad User\nguest account = nobody\n\
             bind interfaces only = yes\ninterfaces = 127.0.0.1/8\nsmb ports = {port}\nprivate dir = {at}\n\
             lock directory = {at}\nstate directory = {at}\ncache directory = {at}\npid directory = {at}\n\
             ncalrpc dir = {at}/ncalrpc\nlog file = {at}/log\nusershare path =\nload printers = no\n\
             disable spoolss = yes\n{share}\n    guest ok = yes\n"
        );
        fs::write(&config, lines).unwrap();
        let log = File::create(dir.join("smbd.log")).unwrap();
        let mut server = Command::new("smbd");
        server.args(["--foreground", "--no-process-group", "--debug-stdout", "-s"]).arg(&config);
        server.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        let samba = Samba { server: server.spawn().unwrap(), port, config };
        wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        samba
    }

    /// Runs commands of `smbclient`; gives what it says.
    fn client(&self, m: &Mount, commands: &str) -> String {
        let commands = format!("lcd {}; {commands}", m.scratch().display());
        let mut client = Command::new("smbclient");
        client.args(["//127.0.0.1/inbox", "-N", "-p", &self.port.to_string(), "-s"]).arg(&self.config);
        let ran = m.run(client.args(["-c", &commands]));
        format!("{}{}", ran.stdout, ran.stderr)
    }
}

impl Drop for Samba {
    fn drop(&mut self) {
        // With it those that it has started, which are of its group.
        // SAFETY: kill(2) of the group of a process that this one has started and not waited for.
        unsafe { libc::kill(-(self.server.id() as i32), libc::SIGKILL) };
        let _ = self.server.wait();
    }
}

fn uploads(m: &Mount) {
    for (name, body) in [("one", "one\n"), ("two", "two\n")] {
        fs::write(m.scratch().join(name), body).unwrap();
    }
}

/// "A second upload of a name through Samba makes a second message", a draft is published by its rename, and what is listed is what is
/// there.
#[test]
fn a_share_of_a_queue_takes_uploads() {
    let (m, _) = users::mount(0o777);
    let inbox = m.queue("inbox");
    users::chmod(&inbox, 0o777);
    uploads(&m);
    let samba = Samba::new(&m);
    let said = samba.client(&m, "put one a; put two a; put two .b; ls; rename .b b; ls");
    assert!(!said.contains("NT_STATUS"), "{said}");
    assert_eq!(m.bodies("inbox"), ["one\n", "two\n", "two\n"], "{said}");
    assert_eq!(producers(&inbox), ["a", "a", "b"]);
    let listed = |name: &str| said.lines().filter(|line| line.split_whitespace().next() == Some(name)).count();
    assert_eq!(listed(".b"), 1, "{said}");
    assert_eq!(listing(&inbox).iter().map(|name| listed(name)).collect::<Vec<_>>(), [2, 2, 1], "{said}");
    assert_eq!(m.stats("inbox")["claims_total"], 0);
    assert_eq!(m.stats("inbox")["aborted_total"], 0);
}

/// The manual's inbox: who shares it sees and reads what is there by the name that it was given, claims nothing, and does not replace
/// it.
#[test]
fn the_manuals_inbox_is_read_by_name() {
    let (m, _) = users::mount(0o777);
    m.sh(&recipe("Uploads by Samba")).ok();
    uploads(&m);
    let samba = Samba::new(&m);
    let said = samba.client(&m, "put one a; ls; get a back");
    assert!(!said.contains("NT_STATUS"), "{said}");
    assert_eq!(listing(m.path().join("inbox")), ["a"]);
    assert_eq!(fs::read_to_string(m.scratch().join("back")).unwrap(), "one\n");
    assert!(samba.client(&m, "put two a").contains("NT_STATUS"));
    assert_eq!(m.bodies("inbox"), ["one\n"]);
    assert_eq!(m.stats("inbox")["claims_total"], 0);
    assert_eq!(m.sh("cat inbox/.mq/pop").ok(), "one\n");
    let said = samba.client(&m, "put two a; ls");
    assert!(!said.contains("NT_STATUS") && m.bodies("inbox") == ["two\n"], "{said}");
}
