//! "a limit on depth and length of a queue's path (4,096 bytes, as PATH_MAX)", and what tells of paths.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use crate::common::*;
use crate::extra::*;

/// Makes queues in queues, with names as long as `length`, until one is refused; prints how many there are, and the error's number.
/// Leaves what it has made, the innermost with a message that died in it.
fn chain(m: &Mount, top: &str, length: usize) -> (usize, i32) {
    let program = format!(
        "
import os
os.chdir({top:?})
name, made = 'n' * {length}, 0
while True:
    try:
        os.mkdir(name)
    except OSError as error:
        print(made, error.errno)
        break
    os.chdir(name)
    made += 1
open('m', 'w').close()
message = next(entry for entry in os.listdir('.') if entry.endswith('-m'))
os.rename(message, '.mq/dead/' + message)
tells = lambda name: os.getxattr('.mq/dead/' + message, 'user.mq.' + name).decode()
path = '/'.join([{top:?}] + [name] * made)
assert tells('dead_source') == path, tells('dead_source')
assert path.endswith(__import__('json').loads(tells('deaths'))[0]['queue'])"
    );
    let ran = m.python(&program);
    let told = ran.ok().split_whitespace().map(|word| word.parse().unwrap()).collect::<Vec<i32>>();
    (told[0] as usize, told[1])
}

#[test]
fn a_path_of_queues_has_an_end_and_is_removed_from_there() {
    let m = Mount::new();
    for (top, length, deepest) in [("long", 250, 16), ("deep", 1, 255)] {
        m.queue(top);
        assert_eq!(chain(&m, top, length), (deepest, libc::ENAMETOOLONG), "{top}");
        // In paths of its own length everything goes on: it is listed, looked at, exported, and told of.
        assert!(m.log().lines().all(|line| line.len() < 8192));
        let listed = Command::new(env!("CARGO_BIN_EXE_mqfs")).args(["ls", "--json"]).arg(m.path()).output().unwrap();
        let queues: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        assert_eq!(queues.as_array().unwrap().len(), deepest + 1);
        let export = Command::new(env!("CARGO_BIN_EXE_mqfs")).arg("export").arg(m.path()).output().unwrap();
        assert!(export.status.success() && export.stdout.len() < (deepest + 8) * 8192, "{}", export.stdout.len());
        let program = format!(
            "
import os
os.chdir({top:?})
names = []
while os.listdir('.'):
    names += os.listdir('.')
    os.chdir(names[-1])
open('.mq/purge', 'w').write('all')
for name in reversed(names):
    os.chdir('..')
    os.rmdir(name)"
        );
        m.python(&program).ok();
        fs::remove_dir(m.path().join(top)).unwrap();
    }
}

/// A queue takes what is nested in it along, so that counts.
#[test]
fn a_rename_makes_no_path_too_long() {
    let m = Mount::new();
    let name = "n".repeat(250);
    let deep = |top: &str, count: usize| {
        let path = format!("{top}{}", format!("/{name}").repeat(count));
        fs::create_dir_all(m.path().join(&path)).unwrap();
        path
    };
    let (a, b) = (deep("a", 10), deep("b", 8));
    m.message(&m.path().join(&a), "x", "body");
    m.sh(&format!("mv -T a {b}/a")).fails("File name too long");
    m.sh(&format!("mv -T a {b}/{name}")).fails("File name too long");
    // Names that are as long, and all that fits.
    m.sh("mv -T a c && mv -T c b/c && mv -T b/c a").ok();
    m.sh(&format!("mv -T a/{name}/{name}/{name}/{name} {b}/{name}")).ok();
    let moved = m.path().join(format!("{b}/{name}")).join(format!("{name}/").repeat(6));
    assert_eq!(fs::read_to_string(only(moved.join("."))).unwrap(), "body");
    // What is nested nowhere any more counts nowhere.
    m.sh(&format!("mv -T {b}/{name} d && mv -T a {b}/a")).ok();
    assert_eq!(fs::metadata(m.path().join(format!("{b}/a"))).unwrap().nlink(), 3);
}

/// Lines that tell of longer paths cannot be used, and those that tell of others can.
#[test]
fn an_import_makes_no_path_too_long() {
    let place = crate::place::Place::new();
    let name = "n".repeat(250);
    let mut lines = String::from("{\"type\":\"mqfs-export\",\"version\":2}\n");
    for count in 1..=20 {
        let path = vec![name.as_str(); count].join("/");
        lines.push_str(&format!("{{\"type\":\"queue\",\"path\":\"{path}\",\"mode\":\"0755\"}}\n"));
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_mqfs"))
        .arg("import")
        .arg(place.store())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let told = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(String::from_utf8_lossy(&told.stdout).contains("16 queues imported"), "{errors}");
    assert!(errors.contains("line 18: name too long") && errors.contains("4 lines could not be used"), "{errors}");
}

/// A path that no queue can have is no place for dead letters, and of a configuration that was refused little is told.
#[test]
fn what_a_configuration_says_is_not_long() {
    let m = Mount::new();
    let q = m.queue("q");
    let long = "x/".repeat(30_000) + "x";
    assert_eq!(errno(set_xattr(&q, "user.mq.dead_letter", &long)), libc::EINVAL);
    assert_eq!(errno(fs::write(control(&q, "config"), format!("dead_letter = {long}\n"))), libc::EINVAL);
    let config = fs::read_to_string(control(&q, "config")).unwrap();
    assert!(config.contains("# rejected: `dead_letter = x/x/") && config.len() < 4096, "{}", config.len());
    assert!(m.log().contains("configuration refused") && m.log().lines().all(|line| line.len() < 4096));
    set_xattr(&q, "user.mq.dead_letter", &long[..4095]).unwrap();
}
