#![no_main]

qwen_vl_libfuzzer::target!(qwen_vl_fuzz::LISTING);
