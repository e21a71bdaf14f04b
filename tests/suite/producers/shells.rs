//! What shells do with `>`, and the other ways to write by a shell.

use super::{Sessions, check, each_makes_x};
use crate::common::Mount;

/// What shells do with `>`: every form is one open file, however many commands write to it.
const REDIRECTIONS: &[(&str, &str)] = &[
    (r#"printf %s "$B" > $q/x"#, "{B}"),
    (r#"printf %s "$B" >> $q/x"#, "{B}"),
    (r#"echo "$B" >| $q/x"#, "{B}\n"),
    (r#"/bin/echo "$B" > $q/x"#, "{B}\n"),
    (r#"/bin/echo "$B" >> $q/x"#, "{B}\n"),
    ("cat > $q/x <<EOF\nbegin\n$B\nEOF\n", "begin\n{B}\n"),
    ("cat >> $q/x <<'EOF'\n$B\nEOF\n", "$B\n"),
    (r#"{ echo a; echo "$B"; } > $q/x"#, "a\n{B}\n"),
    (r#"{ echo a; /bin/echo "$B"; echo c; } > $q/x"#, "a\n{B}\nc\n"),
    (r#"(echo a; echo "$B") > $q/x"#, "a\n{B}\n"),
    (r#"(echo a; /bin/echo "$B") > $q/x"#, "a\n{B}\n"),
    (r#"exec 3> $q/x; echo a >&3; /bin/echo "$B" >&3; exec 3>&-"#, "a\n{B}\n"),
    (r#"exec 3> $q/x; echo a >&3; echo "$B" >&3"#, "a\n{B}\n"),
    (r#"exec > $q/x; echo a; echo "$B""#, "a\n{B}\n"),
    ("for i in 1 2 3; do echo $i$B; done > $q/x", "1{B}\n2{B}\n3{B}\n"),
    (r#"f() { echo "$B"; /bin/echo f; }; f > $q/x"#, "{B}\nf\n"),
    (r#"echo "$B" | cat > $q/x"#, "{B}\n"),
    (r#"printf '%s\n' "$B" "$B" | while read -r l; do echo "$l"; done > $q/x"#, "{B}\n{B}\n"),
    (r#"{ echo "$B"; echo problem >&2; } > $q/x 2>&1"#, "{B}\nproblem\n"),
    (r#"sh -c 'echo out; echo "$B" >&2' > $q/x 2>&1"#, "out\n{B}\n"),
    (r#"cd $q && echo "$B" > x"#, "{B}\n"),
    (r#"echo "$B" > "$M/$q/x""#, "{B}\n"),
    (r#"! { echo "$B"; false; } > $q/x"#, "{B}\n"),
    (r#"eval 'echo "$B"' > $q/x; true"#, "{B}\n"),
];

/// "redirections" by bash.
#[test]
fn bash() {
    each_makes_x("bash", REDIRECTIONS);
    let only_bash: &[(&str, &str)] = &[
        (r#"cat > $q/x <<< "$B""#, "{B}\n"),
        (r#"echo "$B" &> $q/x"#, "{B}\n"),
        (r#"echo "$B" &>> $q/x"#, "{B}\n"),
        (r#"exec {fd}> $q/x; echo "$B" >&$fd; exec {fd}>&-"#, "{B}\n"),
        (r#"printf %s "$B" > >(cat > $q/x); wait $!"#, "{B}"),
        (r#"coproc { cat > $q/x; }; echo "$B" >&${COPROC[1]}; exec {COPROC[1]}>&-; wait"#, "{B}\n"),
    ];
    each_makes_x("bash", only_bash);
}

/// "redirections" by dash.
#[test]
fn dash() {
    each_makes_x("dash", REDIRECTIONS);
}

/// "redirections" by busybox sh, and its applets, which are other programs than those of GNU.
#[test]
fn busybox() {
    each_makes_x("busybox sh", REDIRECTIONS);
    let applets: &[(&str, &str)] = &[
        ("busybox cp $T/x $q/x", "{B}"),
        ("busybox cp -a $T/x $q/", "{B}"),
        ("busybox tee $q/x < $T/x > /dev/null", "{B}"),
        ("busybox dd if=$T/x of=$q/x 2> /dev/null", "{B}"),
        (r#"busybox awk 'BEGIN { print ENVIRON["B"] > (ENVIRON["q"] "/x") }'"#, "{B}\n"),
    ];
    each_makes_x("busybox sh", applets);
    // Its mv gives up when the target that it sees is gone by the time it removes it.
    check(&Mount::new(), "busybox sh", Sessions::Apart, "busybox mv $T/x $q/x", &[("x", "{B}")]);
}
