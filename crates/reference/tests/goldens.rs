//! The checks on burn's CPU backend.

mod checks;

use qwen_vl_reference::burn::tensor::Device;

#[test]
fn f32_agrees_with_the_original() {
    checks::goldens(&Device::flex());
}

#[test]
fn a_packed_row_gives_the_logits_of_its_samples_and_threads() {
    checks::packed_row(&Device::flex());
}

#[test]
fn weights_go_out_as_they_came_in() {
    checks::weights(&Device::flex());
}
