//! Links read and set the attributes of a message at once, where that is possible: headers that are too many, or too large when they
//! are encoded, come along all the same.

use crate::common::*;
use crate::linking::run;
use crate::rabbit::shared;

#[test]
fn headers_come_along_that_are_too_many_or_too_large_to_be_read_at_once() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue("q");
    rabbit.queue("many");
    rabbit.queue("many-back");
    rabbit.python(
        "h = {f'h{n}': f'v{n}' for n in range(600)}
ch.basic_publish('', 'many', b'many', P(headers=h))
ch.basic_publish('', 'many', b'large', P(headers={'large': 'ö' * 20000, 'small': 's'}))",
    );
    run(&m, &["--until-empty", &rabbit.url("?queue=many"), "q"]).ok();
    let paths: Vec<_> = names(&q).into_iter().map(|name| q.join(".mq/peek").join(name)).collect();
    assert_eq!(paths.len(), 2);
    assert_eq!(xattr(&paths[0], "user.h0").as_deref(), Some("v0"));
    assert_eq!(xattr(&paths[0], "user.h599").as_deref(), Some("v599"));
    assert_eq!(xattr(&paths[1], "user.large").unwrap(), "ö".repeat(20_000));
    assert_eq!(errno(try_xattr(&paths[1], "user.mq.properties")), libc::E2BIG, "that is what this is about");
    run(&m, &["--until-empty", "q", &rabbit.url("?queue=many-back")]).ok();
    let there = rabbit.python(
        "a, b = get('many-back'), get('many-back')
print(all(a[0].headers[f'h{n}'] == f'v{n}' for n in range(600)), b[0].headers['large'] == 'ö' * 20000, b[0].headers['small'])",
    );
    assert_eq!(there.trim(), "True True s");
}
