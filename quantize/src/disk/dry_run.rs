//! Reads every weight without writing.

use super::Event;
use super::parallel::in_parallel;
use crate::plan::Plan;
use crate::rows::{RowSource, Target, checked_rows, chunks};
use anyhow::Result;

/// Reads every weight of a plan and checks it as [`crate::rows::encode`] does.
pub(crate) fn check_all(source: &dyn RowSource, plan: &Plan, allow_nonfinite: bool, events: &mut dyn FnMut(Event)) -> Result<()> {
    let of_tensor = |index: usize| chunks(0..plan.tensors[index].shape[0], plan.tensors[index].shape[1]).map(move |rows| (index, rows));
    let work: Vec<_> = (0..plan.tensors.len()).flat_map(of_tensor).collect();
    let mut result = Ok(());
    in_parallel(
        &work,
        |(index, rows)| -> Result<u64> {
            let target = Target::of(plan, *index);
            if source.encoded(*index, rows.clone(), target.scheme)?.is_none() {
                checked_rows(source, &target, rows.clone(), allow_nonfinite)?;
            }
            Ok((rows.len() * target.shape[1]) as u64)
        },
        |checked| match checked {
            Ok(weights) => {
                events(Event::Weights(weights));
                true
            }
            Err(error) => {
                if result.is_ok() {
                    result = Err(error);
                }
                false
            }
        },
    );
    result
}
