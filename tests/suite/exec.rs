//! A process that runs another program closes what it had open then, in the middle of it, and waits for mqfs.

use crate::common::{LIMIT, Mount, poll, wait_until};

/// Python's descriptors are closed when it runs another program. The messages are enqueued, and mqfs goes on.
#[test]
fn a_writer_may_run_another_program() {
    let m = Mount::new();
    m.queue("q");
    let program = r#"
import os, sys
for name in "abc":
    fd = os.open("q/" + name, os.O_CREAT | os.O_WRONLY)
    os.write(fd, name.encode())
if sys.argv[1:] == ["thread"]:
    import threading
    threading.Thread(target=os.execv, args=("/bin/true", ["true"])).start()
else:
    os.execv("/bin/true", ["true"])
"#;
    for how in ["", "thread"] {
        for _ in 0..3 {
            m.start_command(std::process::Command::new("python3").args(["-c", program, how])).finish().ok();
        }
    }
    wait_until(|| m.bodies("q").len() == 18);
    assert_eq!(m.stats("q")["aborted_total"], 0);
}

/// So do its children, before the programs that they run, while it goes on writing.
#[test]
fn a_writer_may_have_children_that_run_other_programs() {
    let m = Mount::new();
    m.queue("q");
    let program = r##"
import os, subprocess
with open("q/a", "w") as file, open("q/.mq/config", "w") as config, open("q/.b", "w") as draft:
    for part in "abc":
        for other in (file, draft, config):
            other.write("#" + part + "\n")
            other.flush()
        subprocess.run(["true"], check=True)
os.rename("q/.b", "q/b")
"##;
    m.spawn_python(program).finish().ok();
    assert_eq!(m.bodies("q"), ["#a\n#b\n#c\n"; 2]);
}

/// While a claimer runs another program, others ask whether it still lives.
#[test]
fn a_claimer_may_run_another_program() {
    let m = Mount::new();
    m.queue("q");
    m.sh("echo hi > q/a").ok();
    let program = r#"
import os
message = os.open("q/" + os.listdir("q")[0], os.O_RDONLY)
os.set_inheritable(message, True)
open(os.environ["T"] + "/claimed", "w").close()
for i in range(400):
    os.write(os.open("q/x" + str(i), os.O_CREAT | os.O_WRONLY), b"x")
os.execv("/bin/sleep", ["sleep", "1000"])
"#;
    let _claimer = m.spawn_python(program);
    wait_until(|| m.scratch().join("claimed").exists());
    let path = crate::common::only(m.path().join("q/.mq/claimed"));
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    for _ in 0..100 {
        m.sh(&format!("cat q/{name}")).fails("Device or resource busy");
    }
    // One sync after the other.
    assert!(poll(10 * LIMIT, || m.bodies("q").len() == 401));
}
