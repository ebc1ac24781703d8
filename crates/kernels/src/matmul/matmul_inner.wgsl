// A vector along k of the tiles, in matmul.wgsl. Its number K is written out, so that compilers know all places in the tiles.
let w$q_0 = weight_tile[Ku * TILE + tx * 2u + $qu * 32u];
let w$q_1 = weight_tile[Ku * TILE + tx * 2u + $qu * 32u + 1u];
let w$q_2 = weight_tile[Ku * TILE + tx * 2u + $qu * 32u + 16u];
let w$q_3 = weight_tile[Ku * TILE + tx * 2u + $qu * 32u + 17u];
let x$s = input_tile[Ku * TILE + ty + $su * 8u];
acc$s_$q += dots(x$s, w$q_0, w$q_1, w$q_2, w$q_3);
