//! The tools that copy, move, unpack and fetch.

use super::{Sessions, check, each_makes_x, own, state};
use crate::common::{Mount, listing, only, producers, xattr};

/// cp in its usual forms: plain, `-a`, `-p`, over what the session wrote before, into a directory.
#[test]
fn cp() {
    let cases: &[(&str, &str)] = &[
        ("cp $T/x $q/x", "{B}"),
        ("cp $T/x $q/", "{B}"),
        ("cp -a $T/x $q/", "{B}"),
        ("cp -p $T/x $q/x", "{B}"),
        ("cp -f $T/x $q/x", "{B}"),
        ("cp --remove-destination $T/x $q/x", "{B}"),
        ("cp --sparse=always $T/x $q/x", "{B}"),
        ("cp --preserve=all $T/x $q/x", "{B}"),
        ("cp -t $q $T/x", "{B}"),
        ("cp /dev/stdin $q/x < $T/x", "{B}"),
    ];
    each_makes_x("bash", cases);
}

/// `cp -r` of a tree makes a queue of each directory and a message of each file.
#[test]
fn cp_of_a_tree() {
    let m = Mount::new();
    m.queue("q");
    m.sh("mkdir -p $T/tree/sub; echo a > $T/tree/a; echo b > $T/tree/sub/b; cp -r $T/tree q/; cp -a $T/tree q/again")
        .ok();
    for tree in ["q/tree", "q/again"] {
        assert_eq!(m.bodies(format!("{tree}/sub")), ["b\n"]);
        assert_eq!(m.bodies(tree), ["a\n"]);
    }
}

/// "`mv` across filesystems [...] unlink an existing target before they write, and would destroy the message before".
#[test]
fn mv_from_another_filesystem() {
    let cases: &[(&str, &str)] =
        &[("mv $T/x $q/x", "{B}"), ("mv $T/x $q/", "{B}"), ("mv -f $T/x $q/x", "{B}"), ("mv -t $q $T/x", "{B}")];
    each_makes_x("bash", cases);
}

/// The same name moved in five times by one script is five messages, and every source is gone.
#[test]
fn mv_of_one_name_five_times_is_five_messages() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("for i in 1 2 3 4 5; do echo $i > $T/report.csv; mv $T/report.csv q/; test ! -e $T/report.csv; done").ok();
    assert_eq!(m.bodies(&q), ["1\n", "2\n", "3\n", "4\n", "5\n"]);
    assert_eq!(producers(&q), ["report.csv"; 5]);
}

/// "`install`, [...] work": it sets mode, owner and times by the bare name after the message was enqueued.
#[test]
fn install() {
    let cases: &[(&str, &str)] = &[
        ("install $T/x $q/x", "{B}"),
        ("install -m 640 $T/x $q/x", "{B}"),
        ("install -m 640 -t $q $T/x", "{B}"),
        ("install -p -o 12 -g 34 $T/x $q/x", "{B}"),
    ];
    each_makes_x("bash", cases);
}

/// dd, block by block, with and without fsync.
#[test]
fn dd() {
    let cases: &[(&str, &str)] = &[
        ("dd if=$T/x of=$q/x status=none", "{B}"),
        ("dd if=$T/x of=$q/x bs=1 status=none", "{B}"),
        ("dd if=$T/x of=$q/x conv=fsync status=none", "{B}"),
        ("dd if=$T/x of=$q/x conv=fdatasync bs=2 status=none", "{B}"),
        ("dd if=$T/x of=$q/x oflag=append conv=notrunc status=none", "{B}"),
        ("dd if=$T/x of=$q/x oflag=sync status=none", "{B}"),
    ];
    each_makes_x("bash", cases);
}

/// tee, to one and to several messages at once.
#[test]
fn tee() {
    let cases: &[(&str, &str)] =
        &[("tee $q/x < $T/x > /dev/null", "{B}"), ("echo $B | tee -a $q/x | cat > /dev/null", "{B}\n")];
    each_makes_x("bash", cases);
    let m = Mount::new();
    let script = "tee $q/x $q/y < $T/x > /dev/null";
    check(&m, "bash", Sessions::Shared, script, &[("x", "{B}"), ("y", "{B}")]);
}

/// tar x restores a tree of files; with `-U` and `--overwrite` also over names that its session sees.
#[test]
fn tar() {
    let m = Mount::new();
    let pack = "cp $T/x $T/y; tar -C $T -cf $T/tar x y;";
    let expected = [("x", "{B}"), ("y", "{B}")];
    check(&m, "bash", Sessions::Apart, &format!("{pack} tar -C $q -xf $T/tar"), &expected);
    check(&m, "bash", Sessions::Apart, &format!("{pack} tar -C $q -xpf $T/tar"), &expected);
    check(&m, "bash", Sessions::Apart, &format!("{pack} busybox tar -C $q -xf $T/tar"), &expected);
    check(&m, "bash", Sessions::Shared, &format!("{pack} tar -C $q -xUf $T/tar"), &expected);
    check(&m, "bash", Sessions::Shared, &format!("{pack} tar -C $q --overwrite -xf $T/tar"), &expected);
}

/// split makes a message of each piece, in order; like `sort -o` and dd with `conv=notrunc` it opens without O_TRUNC.
#[test]
fn programs_that_open_without_truncating() {
    let m = Mount::new();
    let pieces = [("part-aa", "123"), ("part-ab", "456"), ("part-ac", "78")];
    check(&m, "bash", Sessions::Shared, "printf 12345678 | split -b 3 - $q/part-", &pieces);
    check(&m, "bash", Sessions::Shared, "sort -o $q/x $T/x", &[("x", "{B}\n")]);
    check(&m, "bash", Sessions::Shared, "dd if=$T/x of=$q/x conv=notrunc status=none", &[("x", "{B}")]);
    check(&m, "bash", Sessions::Shared, "cat $T/x 1<> $q/x", &[("x", "{B}")]);
}

/// rsync: by draft and rename (its default), in place, with attributes and with everything. Under a name that its session
/// sees it reads what it is about to replace; another session's rsync finds nothing.
#[test]
fn rsync() {
    let m = Mount::new();
    let options = ["", "-t", "-a", "-X", "-aX", "--inplace", "-a --inplace", "--fsync -W", "--temp-dir=$T"];
    for options in options {
        for sessions in [Sessions::SharedAndRead, Sessions::Apart] {
            check(&m, "bash", sessions, &format!("rsync {options} $T/x $q/"), &[("x", "{B}")]);
        }
    }
}

/// `rsync -X` carries `user.*` attributes, which become headers.
#[test]
fn rsync_with_xattrs_makes_headers() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo x > $T/x; setfattr -n user.colour -v red $T/x && rsync -X $T/x q/").ok();
    assert_eq!(xattr(only(&q), "user.colour").as_deref(), Some("red"));
    m.sh("cp -a $T/x q/; cp --preserve=xattr $T/x q/").ok();
    for name in listing(&q) {
        assert_eq!(xattr(q.join(&name), "user.colour").as_deref(), Some("red"), "{name}");
    }
}

/// rsync of a directory into a queue: every file once, and none of its temporary names.
#[test]
fn rsync_of_a_directory() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("mkdir $T/d; for i in 1 2 3 4 5 6 7 8 9; do echo $i > $T/d/f$i; done; rsync -a $T/d/ q/").ok();
    let expected: Vec<_> = (1..=9).map(|i| own((&format!("f{i}"), &format!("{i}\n")))).collect();
    assert_eq!(state(&m, &q), expected);
}

/// curl writes what it downloads.
#[test]
fn curl() {
    each_makes_x("bash", &[("curl -sS -o $q/x file://$T/x", "{B}"), ("cd $q && curl -sS -O file://$T/x", "{B}")]);
}

/// sed's `w` command.
#[test]
fn sed() {
    each_makes_x("bash", &[("sed -n \"w $q/x\" $T/x", "{B}")]);
}

/// Programs that write through others: find, xargs, pipelines, compressors.
#[test]
fn compositions() {
    let cases: &[(&str, &str)] = &[
        ("find $T -name x -exec cp {} $q/ \\;", "{B}"),
        ("printf x | xargs -I{} sh -c 'cat $T/{} > $q/{}'", "{B}"),
        ("gzip -c $T/x | gunzip > $q/x", "{B}"),
        ("env -i /bin/cat $T/x > $q/x", "{B}"),
        ("nohup cat $T/x > $q/x 2> /dev/null", "{B}"),
    ];
    each_makes_x("bash", cases);
}
