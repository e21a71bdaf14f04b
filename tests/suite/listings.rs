//! Listings while messages come and go.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use crate::common::*;
use crate::extra::*;

fn drained(m: &Mount, queue: &str) {
    let q = m.path().join(queue);
    assert_eq!(listing(&q), Vec::<String>::new());
    assert_eq!(m.messages(queue).len(), 0);
    let stats = m.stats(queue);
    let left: Vec<_> = ["ready", "claimed", "dead"].iter().map(|key| stats[*key].as_u64()).collect();
    assert_eq!(left, [Some(0); 3], "{stats}");
}

/// A reader that lists while others delete sees each name at most once and in order, and misses none that stays.
#[test]
fn listing_while_others_delete() {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    m.fill(&q, 3_000);
    let all = listing(&q);
    let stays: Vec<&String> = all.iter().step_by(3).collect();
    let mut doomed: Vec<&String> = all.iter().enumerate().filter(|(i, _)| i % 3 != 0).map(|(_, name)| name).collect();
    let mut random = Random::new();
    for i in (1..doomed.len()).rev() {
        doomed.swap(i, random.below(i as u64 + 1) as usize);
    }
    for (i, part) in doomed.chunks(doomed.len().div_ceil(2)).enumerate() {
        let lines: String = part.iter().map(|name| format!("{name}\n")).collect();
        fs::write(m.scratch().join(format!("doomed{i}")), lines).unwrap();
    }
    let program =
        "import os, sys\nfor name in open(os.environ['T'] + '/doomed' + sys.argv[1]): os.unlink('q/' + name.strip())";
    let start = |part: &str| {
        let mut command = std::process::Command::new("python3");
        m.start_command(command.args(["-c", program, part]))
    };
    let mut deleters = [start("0"), start("1")];
    let mut looks = 0;
    while deleters.iter_mut().any(Running::is_running) {
        assert_listing(&q, &stays);
        looks += 1;
    }
    assert!(looks > 2, "{looks} looks");
    for deleter in deleters {
        deleter.finish().ok();
    }
    assert_eq!(listing(&q).iter().collect::<Vec<_>>(), stays);
}

fn assert_listing(queue: &Path, stays: &[&String]) {
    let names = listing(queue);
    assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice");
    let seen: HashSet<&String> = names.iter().collect();
    let missing: Vec<_> = stays.iter().filter(|name| !seen.contains(**name)).collect();
    assert!(missing.is_empty(), "{} survivors are not listed: {:?}", missing.len(), missing.first());
}

/// A shell that deletes what it lists, as `rm q/*` and `find -delete` do, gets all of it.
#[test]
fn deleting_what_one_lists() {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    let ways = [
        "find q -type f -delete",
        "rm -r q/*",
        "perl -e 'opendir D, \"q\"; while ($_ = readdir D) { unlink \"q/$_\" or die if /-/ }'",
        "python3 -c 'import os\nfor e in os.scandir(\"q\"): os.unlink(e.path)'",
    ];
    for way in ways {
        m.fill(&q, 1_000);
        m.sh(way).ok();
        drained(&m, "q");
    }
}

/// A message that is enqueued while a directory is being read may be missed, but those of before are all there.
#[test]
fn listing_while_others_enqueue() {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    m.fill(&q, 500);
    let before = listing(&q);
    let stays: Vec<&String> = before.iter().collect();
    let mut writer = m.spawn_python("for i in range(1500):\n  with open('q/new%d' % i, 'w') as f: f.write('x')");
    while writer.is_running() {
        assert_listing(&q, &stays);
    }
    writer.finish().ok();
    assert_eq!(listing(&q).len(), 2_000);
}
