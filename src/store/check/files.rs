//! Body files: does each belong to somebody?

use crate::error::Result;
use crate::store::db::Family;
use crate::store::keys;

use super::{Check, Fix};

impl Check<'_> {
    pub(super) fn body_files(&mut self) -> Result<()> {
        let (mut odd, mut files) = (Vec::new(), Vec::new());
        self.bodies.each(|file| match file {
            Ok(id) => files.push(id),
            Err(path) => odd.push(path),
        })?;
        for path in odd {
            self.report.note(&format!("{} is no body file; left alone", path.display()));
        }
        for id in files {
            let owned = self.db.get(Family::Meta, &keys::body_file(id))?.is_some()
                || self.db.get(Family::Meta, &keys::draft(id))?.is_some();
            if owned {
                continue;
            }
            let text = format!("body file {id:016x} belongs to nothing");
            if !self.report.repair {
                self.report.note(&format!("{text}: a crash leaves such, and the next mount removes it"));
                continue;
            }
            match self.apply(vec![Fix::Move(id)]) {
                Ok(()) => self.report.note(&format!("{text}: moved to lost+found")),
                Err(error) => self.report.note(&format!("{text}, and cannot be moved: {error}")),
            }
        }
        Ok(())
    }
}
