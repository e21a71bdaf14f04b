//! The open files of a mount are bounded. A test of its own program, because the limit of descriptors that it sets for mqfs is
//! one for the whole program.

mod common;
#[path = "common/extra.rs"]
mod extra;
#[path = "common/users.rs"]
mod users;

use std::fs;

use common::*;
use users::*;

/// Whoever opens files without end is told so before the others' work suffers.
#[test]
fn open_files_are_bounded() {
    // mqfs takes its limit from who starts it.
    let limit = libc::rlimit { rlim_cur: 600, rlim_max: 600 };
    // SAFETY: a call with a valid pointer.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let (m, _q) = mount(0o777);
    let open = r#"
import errno, os, sys
files, refused = [], 0
for n in range(500):
    try: files.append(os.open(f"q/.{n}" if n % 2 else f"q/m{n}", os.O_CREAT | os.O_RDWR))
    except OSError as error:
        assert error.errno == errno.ENFILE, error
        refused += 1
for file in files: os.write(file, b"x" * 40000)
print(len(files), refused, flush=True)
sys.stdin.read()
"#;
    fs::write(m.scratch().join("open"), open).unwrap();
    let mut greedy = m.spawn_as(ANN, ANN, "mkfifo $T/wait; exec python3 $T/open <> $T/wait");
    wait_until(|| greedy.output().ends_with('\n') || !greedy.is_running());
    let told = greedy.output();
    let counts: Vec<usize> = told.split_whitespace().map(|count| count.parse().unwrap()).collect();
    assert!(counts[0] > 200 && counts[0] < 300 && counts[1] > 200, "{told} {}", greedy.errors());
    ann(&m, "echo x > q/x").fails("Too many open files");
    assert_eq!(bob(&m, "echo x > q/x; f=$(cat q/.mq/claim); cat q/$f; rm q/$f").ok(), "x\n", "{told}");
    for n in 0..20 {
        fs::write(m.path().join(format!("q/r{n}")), "root's").unwrap();
    }
    assert_eq!(m.sh("f=$(cat q/.mq/claim); cat q/$f; rm q/$f").ok(), "root's");
    drop(greedy);
    wait_until(|| ann(&m, "echo x > q/x").status.success());
    assert!(!m.log().contains("ERROR"), "{}", m.log());
}
