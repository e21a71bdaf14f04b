//! How far the queues nested in others reach below them.

use crate::error::Result;
use crate::store::db::Family;
use crate::store::keys;
use crate::store::tree::{Tree, is_measured, knows};

use super::{Check, Fix};

impl Check<'_> {
    /// What each queue knows of that must be no less than what there is.
    pub(super) fn reaches(&mut self) -> Result<()> {
        // Else the next mount measures all of them.
        if !is_measured(&self.db)? {
            return Ok(());
        }
        let mut tree = Tree::default();
        for (id, known) in &self.queues {
            tree.add(*id, known.record.parent, known.record.batch, known.record.name.len());
        }
        let mut reaches: Vec<_> = tree.reaches().into_iter().collect();
        reaches.sort_unstable_by_key(|(id, _)| *id);
        for (id, extent) in reaches {
            let key = keys::reach(id).to_vec();
            if !self.db.get(Family::Meta, &key)?.is_some_and(|found| knows(&found, extent)) {
                let text = format!("{}: how far the queues nested in it reach is missing or wrong", self.label(id));
                let put = Fix::Put(Family::Meta, key, extent.stored().to_vec());
                self.damaged(&text, vec![put], "measured anew");
            }
        }
        let db = self.db.clone();
        db.scan(Family::Meta, keys::REACHES, keys::REACHES, |key, _| {
            let id = keys::last_number(key).unwrap_or(0);
            if !self.queues.contains_key(&id) {
                self.leads_nowhere(Family::Meta, key, &format!("how far the queues nested in queue number {id} reach"));
            }
            Ok(true)
        })
    }
}
