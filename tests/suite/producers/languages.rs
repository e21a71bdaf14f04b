//! Programs of awk, Perl and Python.

use super::{Sessions, check, each_makes_x};
use crate::common::Mount;

/// The three awks of Debian, and a message that stays open until awk ends.
#[test]
fn awk() {
    for awk in ["awk", "mawk", "gawk"] {
        let closed =
            format!(r#"{awk} 'BEGIN {{ f = ENVIRON["q"] "/x"; print "a" > f; print ENVIRON["B"] > f; close(f) }}'"#);
        let unclosed = format!(r#"{awk} '{{ print > (ENVIRON["q"] "/x") }}' $T/x"#);
        let appended = format!(r#"{awk} '{{ print >> (ENVIRON["q"] "/x") }}' $T/x"#);
        each_makes_x("bash", &[(&closed, "a\n{B}\n"), (&unclosed, "{B}\n"), (&appended, "{B}\n")]);
    }
}

/// Perl's open for writing, appending and in layers.
#[test]
fn perl() {
    let cases: &[(&str, &str)] = &[
        (r#"perl -e 'open F, ">", "$ENV{q}/x" or die; print F $ENV{B}; close F or die $!'"#, "{B}"),
        (r#"perl -e 'open F, ">>", "$ENV{q}/x" or die; print F $ENV{B}'"#, "{B}"),
        (r#"perl -MFile::Copy -e 'copy("$ENV{T}/x", "$ENV{q}/x") or die $!'"#, "{B}"),
        (r#"perl -MFile::Copy -e 'move("$ENV{T}/x", "$ENV{q}/x") or die $!'"#, "{B}"),
        (r#"perl -ne 'BEGIN { open STDOUT, ">", "$ENV{q}/x" } print' $T/x"#, "{B}"),
    ];
    each_makes_x("bash", cases);
}

/// Python's open in its modes, pathlib, and the helpers of shutil, which set mode and times by the bare name afterwards.
#[test]
fn python() {
    let programs: &[(&str, &str)] = &[
        ("f = open(x, 'w'); f.write(B); f.close()", "{B}"),
        ("with open(x, 'wb', buffering=0) as f: f.write(b'a'); f.write(B.encode())", "a{B}"),
        ("with open(x, 'a') as f: print(B, file=f)", "{B}\n"),
        ("with open(x, 'w+') as f: f.write(B); f.seek(0); assert f.read() == B", "{B}"),
        ("open(x, 'w').write(B)", "{B}"),
        ("pathlib.Path(x).write_text(B)", "{B}"),
        ("shutil.copy(T, x)", "{B}"),
        ("shutil.copy(T, os.path.dirname(x))", "{B}"),
        ("shutil.copy2(T, x)", "{B}"),
        ("shutil.copyfile(T, x)", "{B}"),
        ("shutil.move(T, x)", "{B}"),
        ("subprocess.run(['echo', B], stdout=open(x, 'w'), check=True)", "{B}\n"),
    ];
    let m = Mount::new();
    for (program, body) in programs {
        check(&m, "bash", Sessions::Shared, &python_script(program), &[("x", body)]);
    }
}

/// The way careful programs write: a temporary file with a hidden name, fsync, then `os.replace` (or `rename`, or `link`).
#[test]
fn python_tempfile_and_replace() {
    let temp = "f = tempfile.NamedTemporaryFile('w', dir=os.path.dirname(x), prefix='.', delete=False); f.write(B); ";
    let programs: &[&str] = &[
        "f.flush(); os.fsync(f.fileno()); f.close(); os.replace(f.name, x)",
        "f.close(); os.rename(f.name, x)",
        "f.close(); os.chmod(f.name, 0o644); os.replace(f.name, x)",
        // Renamed while it is still open: enqueued when it is closed.
        "f.flush(); os.replace(f.name, x); f.close()",
    ];
    let m = Mount::new();
    for program in programs {
        check(&m, "bash", Sessions::Shared, &python_script(&format!("{temp}{program}")), &[("x", "{B}")]);
    }
    let link = format!("{temp} f.close(); os.link(f.name, x); os.unlink(f.name)");
    check(&m, "bash", Sessions::Apart, &python_script(&link), &[("x", "{B}")]);
}

fn python_script(program: &str) -> String {
    let imports = "import os, pathlib, shutil, subprocess, tempfile";
    let names = "B, T, x = os.environ['B'], os.environ['T'] + '/x', os.environ['q'] + '/x'";
    format!("python3 - <<'END'\n{imports}\n{names}\n{program}\nEND\n")
}
