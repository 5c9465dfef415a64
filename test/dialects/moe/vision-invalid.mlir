// RUN: moe-opt %s -split-input-file -verify-diagnostics

// One rejected case for each constraint of each op of pictures, named after it.

func.func @embed_c1(%tokens: tensor<2xi32>, %table: tensor<9x8xf32>, %images: tensor<?x4xf32>, %rows: tensor<2xi32>) {
  // expected-error @+1 {{has 4 as dim 1 of images, expected 8, dim 1 of table}}
  %h = moe.embed %tokens, %table images %images, %rows : tensor<?x4xf32>, tensor<2xi32>
      : tensor<2xi32>, tensor<9x8xf32> -> tensor<2x8xf32>
  return
}

// -----

func.func @embed_c1(%tokens: tensor<2xi32>, %table: tensor<9x8xf32>, %images: tensor<?x8xf32>, %rows: tensor<3xi32>) {
  // expected-error @+1 {{has 3 as dim 0 of image_rows, expected 2, dim 0 of tokens}}
  %h = moe.embed %tokens, %table images %images, %rows : tensor<?x8xf32>, tensor<3xi32>
      : tensor<2xi32>, tensor<9x8xf32> -> tensor<2x8xf32>
  return
}

// -----

func.func @embed_c2(%tokens: tensor<2xi32>, %table: tensor<9x8xf32>, %images: tensor<?x8xf32>) {
  // expected-error @+1 {{has only one of images and image_rows, expected both or neither}}
  %h = "moe.embed"(%tokens, %table, %images) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}>
      : (tensor<2xi32>, tensor<9x8xf32>, tensor<?x8xf32>) -> tensor<2x8xf32>
  return
}

// -----

func.func @patches_c1(%tiles: tensor<?x4x4x3xui8>) {
  // expected-error @+1 {{has 0 as patch, expected 1 to 1024}}
  %x = moe.patches %tiles patch 0 rescale 1.0 mean [0.0, 0.0, 0.0] std [1.0, 1.0, 1.0]
      : tensor<?x4x4x3xui8> -> tensor<?x12xf32>
  return
}

// -----

func.func @patches_c1(%tiles: tensor<?x4096x4096x3xui8>) {
  // expected-error @+1 {{has 2048 as patch, expected 1 to 1024}}
  %x = moe.patches %tiles patch 2048 rescale 1.0 mean [0.0, 0.0, 0.0] std [1.0, 1.0, 1.0]
      : tensor<?x4096x4096x3xui8> -> tensor<?x12xf32>
  return
}

// -----

func.func @patches_c1(%tiles: tensor<?x4x4x3xui8>) {
  // expected-error @+1 {{has 4 as dim 1 of tiles, expected a multiple of patch, 3}}
  %x = moe.patches %tiles patch 3 rescale 1.0 mean [0.0, 0.0, 0.0] std [1.0, 1.0, 1.0]
      : tensor<?x4x4x3xui8> -> tensor<?x12xf32>
  return
}

// -----

func.func @patches_c1(%tiles: tensor<?x2048x2048x3xui8>) {
  // expected-error @+1 {{has 2048 as dim 1 of tiles by patch, expected 1 to 1024}}
  %x = moe.patches %tiles patch 1 rescale 1.0 mean [0.0, 0.0, 0.0] std [1.0, 1.0, 1.0]
      : tensor<?x2048x2048x3xui8> -> tensor<?x3xf32>
  return
}

// -----

func.func @patches_c1(%tiles: tensor<?x4x6x3xui8>) {
  // expected-error @+1 {{has 6 as dim 2 of tiles, expected 4, dim 1 of tiles}}
  %x = moe.patches %tiles patch 2 rescale 1.0 mean [0.0, 0.0, 0.0] std [1.0, 1.0, 1.0]
      : tensor<?x4x6x3xui8> -> tensor<?x12xf32>
  return
}

// -----

func.func @patches_c1(%tiles: tensor<?x4x4x4xui8>) {
  // expected-error @+1 {{has 4 as dim 3 of tiles, expected 3, the channels of a pixel}}
  %x = moe.patches %tiles patch 2 rescale 1.0 mean [0.0, 0.0, 0.0] std [1.0, 1.0, 1.0]
      : tensor<?x4x4x4xui8> -> tensor<?x12xf32>
  return
}

// -----

func.func @patches_c1(%tiles: tensor<?x?x?x3xui8>) {
  // expected-error @+1 {{has tiles of dynamic sides, expected static ones}}
  %x = moe.patches %tiles patch 2 rescale 1.0 mean [0.0, 0.0, 0.0] std [1.0, 1.0, 1.0]
      : tensor<?x?x?x3xui8> -> tensor<?x12xf32>
  return
}

// -----

func.func @patches_c1(%tiles: tensor<?x4x4x3xui8>) {
  // expected-error @+1 {{has 8 as dim 1 of result, expected 12, the elements of a patch}}
  %x = moe.patches %tiles patch 2 rescale 1.0 mean [0.0, 0.0, 0.0] std [1.0, 1.0, 1.0]
      : tensor<?x4x4x3xui8> -> tensor<?x8xf32>
  return
}

// -----

func.func @patches_c1(%tiles: tensor<1x4x4x3xui8>) {
  // expected-error @+1 {{has 3 as dim 0 of result, expected 4, 4 times dim 0 of tiles}}
  %x = moe.patches %tiles patch 2 rescale 1.0 mean [0.0, 0.0, 0.0] std [1.0, 1.0, 1.0]
      : tensor<1x4x4x3xui8> -> tensor<3x12xf32>
  return
}

// -----

func.func @patches_c2(%tiles: tensor<?x4x4x3xui8>) {
  // expected-error @+1 {{has -1.000000e+00 as rescale, expected a positive number}}
  %x = moe.patches %tiles patch 2 rescale -1.0 mean [0.0, 0.0, 0.0] std [1.0, 1.0, 1.0]
      : tensor<?x4x4x3xui8> -> tensor<?x12xf32>
  return
}

// -----

func.func @patches_c2(%tiles: tensor<?x4x4x3xui8>) {
  // expected-error @+1 {{has 2 of mean, expected 3, one for each channel of a pixel}}
  %x = moe.patches %tiles patch 2 rescale 1.0 mean [0.0, 0.0] std [1.0, 1.0, 1.0]
      : tensor<?x4x4x3xui8> -> tensor<?x12xf32>
  return
}

// -----

func.func @patches_c2(%tiles: tensor<?x4x4x3xui8>) {
  // expected-error @+1 {{has 4 of std, expected 3, one for each channel of a pixel}}
  %x = moe.patches %tiles patch 2 rescale 1.0 mean [0.0, 0.0, 0.0] std [1.0, 1.0, 1.0, 1.0]
      : tensor<?x4x4x3xui8> -> tensor<?x12xf32>
  return
}

// -----

func.func @patches_c2(%tiles: tensor<?x4x4x3xui8>) {
  // expected-error @+1 {{has 0.000000e+00 as std, expected a positive number}}
  %x = moe.patches %tiles patch 2 rescale 1.0 mean [0.0, 0.0, 0.0] std [1.0, 0.0, 1.0]
      : tensor<?x4x4x3xui8> -> tensor<?x12xf32>
  return
}

// -----

func.func @append_class_c1(%x: tensor<?x8xf32>, %class: tensor<8xf32>) {
  // expected-error @+1 {{has 0 as grid, expected 1 to 1024}}
  %y = moe.append_class %x, %class grid 0 : tensor<?x8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @append_class_c1(%x: tensor<?x8xf32>, %class: tensor<4xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of class_row, expected 8, dim 1 of x}}
  %y = moe.append_class %x, %class grid 2 : tensor<?x8xf32>, tensor<4xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @append_class_c1(%x: tensor<?x8xf32>, %class: tensor<8xf32>) {
  // expected-error @+1 {{has 9 as dim 1 of result, expected 8, dim 1 of x}}
  %y = moe.append_class %x, %class grid 2 : tensor<?x8xf32>, tensor<8xf32> -> tensor<?x9xf32>
  return
}

// -----

func.func @append_class_c1(%x: tensor<6x8xf32>, %class: tensor<8xf32>) {
  // expected-error @+1 {{has 6 as dim 0 of x, expected a multiple of the rows of a tile, 4}}
  %y = moe.append_class %x, %class grid 2 : tensor<6x8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @append_class_c1(%x: tensor<8x8xf32>, %class: tensor<8xf32>) {
  // expected-error @+1 {{has 9 as dim 0 of result, expected 10, the rows of as many tiles as x has}}
  %y = moe.append_class %x, %class grid 2 : tensor<8x8xf32>, tensor<8xf32> -> tensor<9x8xf32>
  return
}

// -----

func.func @add_positions_c1(%x: tensor<?x8xf32>, %t: tensor<5x4xf32>) {
  // expected-error @+1 {{has 4 as dim 1 of table, expected 8, dim 1 of x}}
  %y = moe.add_positions %x, %t : tensor<?x8xf32>, tensor<5x4xf32>
  return
}

// -----

func.func @add_positions_c1(%x: tensor<6x8xf32>, %t: tensor<5x8xf32>) {
  // expected-error @+1 {{has 6 as dim 0 of x, expected a multiple of dim 0 of table, 5}}
  %y = moe.add_positions %x, %t : tensor<6x8xf32>, tensor<5x8xf32>
  return
}

// -----

func.func @layer_norm_c1(%x: tensor<?x8xf32>, %w: tensor<4xf32>, %b: tensor<8xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of weight, expected 8, dim 1 of x}}
  %y = moe.layer_norm %x, %w, %b eps 1.0 : tensor<?x8xf32>, tensor<4xf32>, tensor<8xf32>
  return
}

// -----

func.func @layer_norm_c1(%x: tensor<?x8xf32>, %w: tensor<8xf32>, %b: tensor<4xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of bias, expected 8, dim 1 of x}}
  %y = moe.layer_norm %x, %w, %b eps 1.0 : tensor<?x8xf32>, tensor<8xf32>, tensor<4xf32>
  return
}

// -----

func.func @layer_norm_c2(%x: tensor<?x8xf32>, %w: tensor<8xf32>, %b: tensor<8xf32>) {
  // expected-error @+1 {{has 0.000000e+00 as eps, expected a positive number}}
  %y = moe.layer_norm %x, %w, %b eps 0.0 : tensor<?x8xf32>, tensor<8xf32>, tensor<8xf32>
  return
}

// -----

func.func @linear_bias_c1(%x: tensor<?x8xf32>, %w: tensor<4x6xf32>, %b: tensor<4xf32>) {
  // expected-error @+1 {{has 6 as dim 1 of weight, expected 8, dim 1 of x}}
  %y = moe.linear_bias %x, %w, %b : tensor<?x8xf32>, tensor<4x6xf32>, tensor<4xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func @linear_bias_c1(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>, %b: tensor<5xf32>) {
  // expected-error @+1 {{has 5 as dim 0 of bias, expected 4, dim 0 of weight}}
  %y = moe.linear_bias %x, %w, %b : tensor<?x8xf32>, tensor<4x8xf32>, tensor<5xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func @linear_bias_c1(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>, %b: tensor<4xf32>) {
  // expected-error @+1 {{has 8 as dim 1 of result, expected 4, dim 0 of weight}}
  %y = moe.linear_bias %x, %w, %b : tensor<?x8xf32>, tensor<4x8xf32>, tensor<4xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @patch_rope_c1(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{has 0 as heads, expected more}}
  %y = moe.patch_rope %x heads 0 grid 2 theta 100.0 : tensor<?x16xf32>
  return
}

// -----

func.func @patch_rope_c1(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{has 16 as dim 1 of x, expected a multiple of heads, 3}}
  %y = moe.patch_rope %x heads 3 grid 2 theta 100.0 : tensor<?x16xf32>
  return
}

// -----

func.func @patch_rope_c1(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{rotates heads of 2 channels, expected a multiple of 4: pairs for each of two axes}}
  %y = moe.patch_rope %x heads 8 grid 2 theta 100.0 : tensor<?x16xf32>
  return
}

// -----

func.func @patch_rope_c2(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{has -1 as grid, expected 1 to 1024}}
  %y = moe.patch_rope %x heads 2 grid -1 theta 100.0 : tensor<?x16xf32>
  return
}

// -----

func.func @patch_rope_c2(%x: tensor<4x16xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of x, expected a multiple of the rows of a tile, 5}}
  %y = moe.patch_rope %x heads 2 grid 2 theta 100.0 : tensor<4x16xf32>
  return
}

// -----

func.func @patch_rope_c3(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{has 0.000000e+00 as theta, expected a positive number}}
  %y = moe.patch_rope %x heads 2 grid 2 theta 0.0 : tensor<?x16xf32>
  return
}

// -----

func.func @tile_attention_c1(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{has 16 as dim 1 of queries, expected a multiple of heads, 3}}
  %y = moe.tile_attention %x, %x, %x heads 3 grid 2 : tensor<?x16xf32>
  return
}

// -----

func.func @tile_attention_c2(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{has 1025 as grid, expected 1 to 1024}}
  %y = moe.tile_attention %x, %x, %x heads 2 grid 1025 : tensor<?x16xf32>
  return
}

// -----

func.func @tile_attention_c2(%x: tensor<4x16xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of queries, expected a multiple of the rows of a tile, 5}}
  %y = moe.tile_attention %x, %x, %x heads 2 grid 2 : tensor<4x16xf32>
  return
}

// -----

func.func @drop_class_c1(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{has 0 as grid, expected 1 to 1024}}
  %y = moe.drop_class %x grid 0 : tensor<?x8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @drop_class_c1(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{has 4 as dim 1 of result, expected 8, dim 1 of x}}
  %y = moe.drop_class %x grid 2 : tensor<?x8xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func @drop_class_c1(%x: tensor<8x8xf32>) {
  // expected-error @+1 {{has 8 as dim 0 of x, expected a multiple of the rows of a tile, 5}}
  %y = moe.drop_class %x grid 2 : tensor<8x8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @drop_class_c1(%x: tensor<10x8xf32>) {
  // expected-error @+1 {{has 10 as dim 0 of result, expected 8, the rows of as many tiles as x has}}
  %y = moe.drop_class %x grid 2 : tensor<10x8xf32> -> tensor<10x8xf32>
  return
}

// -----

func.func @pixel_shuffle_c1(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{has 0 as grid, expected 1 to 1024}}
  %y = moe.pixel_shuffle %x grid 0 : tensor<?x8xf32> -> tensor<?x32xf32>
  return
}

// -----

func.func @pixel_shuffle_c1(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{has 3 as grid, expected an even number}}
  %y = moe.pixel_shuffle %x grid 3 : tensor<?x8xf32> -> tensor<?x32xf32>
  return
}

// -----

func.func @pixel_shuffle_c1(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{has 8 as dim 1 of result, expected 32, 4 times dim 1 of x}}
  %y = moe.pixel_shuffle %x grid 2 : tensor<?x8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @pixel_shuffle_c1(%x: tensor<6x8xf32>) {
  // expected-error @+1 {{has 6 as dim 0 of x, expected a multiple of the rows of a tile, 4}}
  %y = moe.pixel_shuffle %x grid 2 : tensor<6x8xf32> -> tensor<?x32xf32>
  return
}

// -----

func.func @pixel_shuffle_c1(%x: tensor<8x8xf32>) {
  // expected-error @+1 {{has 8 as dim 0 of result, expected 2, the rows of as many tiles as x has}}
  %y = moe.pixel_shuffle %x grid 2 : tensor<8x8xf32> -> tensor<8x32xf32>
  return
}

// -----

func.func @patch_embed_c1(%t: tensor<?x4x4x3xui8>, %w: tensor<8x12xf32>, %c: tensor<8xf32>,
    %p: tensor<5x8xf32>, %n: tensor<8xf32>, %b: tensor<8xf32>) {
  // expected-error @+1 {{has 4 as dim 1 of tiles, expected a multiple of patch, 3}}
  %x = moe.patch_embed %t, %w, %c, %p, %n, %b patch 3 rescale 1.0 mean [0.0, 0.0, 0.0]
      std [1.0, 1.0, 1.0] eps 1.0 : tensor<?x4x4x3xui8>, tensor<8x12xf32>, tensor<8xf32>,
      tensor<5x8xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @patch_embed_c1(%t: tensor<?x4x4x3xui8>, %w: tensor<8x11xf32>, %c: tensor<8xf32>,
    %p: tensor<5x8xf32>, %n: tensor<8xf32>, %b: tensor<8xf32>) {
  // expected-error @+1 {{has 11 as dim 1 of weight, expected 12, the elements of a patch}}
  %x = moe.patch_embed %t, %w, %c, %p, %n, %b patch 2 rescale 1.0 mean [0.0, 0.0, 0.0]
      std [1.0, 1.0, 1.0] eps 1.0 : tensor<?x4x4x3xui8>, tensor<8x11xf32>, tensor<8xf32>,
      tensor<5x8xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @patch_embed_c1(%t: tensor<?x4x4x3xui8>, %w: tensor<8x12xf32>, %c: tensor<4xf32>,
    %p: tensor<5x8xf32>, %n: tensor<8xf32>, %b: tensor<8xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of class_row, expected 8, dim 0 of weight}}
  %x = moe.patch_embed %t, %w, %c, %p, %n, %b patch 2 rescale 1.0 mean [0.0, 0.0, 0.0]
      std [1.0, 1.0, 1.0] eps 1.0 : tensor<?x4x4x3xui8>, tensor<8x12xf32>, tensor<4xf32>,
      tensor<5x8xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @patch_embed_c1(%t: tensor<?x4x4x3xui8>, %w: tensor<8x12xf32>, %c: tensor<8xf32>,
    %p: tensor<4x8xf32>, %n: tensor<8xf32>, %b: tensor<8xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of positions, expected 5, the rows of a tile}}
  %x = moe.patch_embed %t, %w, %c, %p, %n, %b patch 2 rescale 1.0 mean [0.0, 0.0, 0.0]
      std [1.0, 1.0, 1.0] eps 1.0 : tensor<?x4x4x3xui8>, tensor<8x12xf32>, tensor<8xf32>,
      tensor<4x8xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @patch_embed_c1(%t: tensor<?x4x4x3xui8>, %w: tensor<8x12xf32>, %c: tensor<8xf32>,
    %p: tensor<5x4xf32>, %n: tensor<8xf32>, %b: tensor<8xf32>) {
  // expected-error @+1 {{has 4 as dim 1 of positions, expected 8, dim 0 of weight}}
  %x = moe.patch_embed %t, %w, %c, %p, %n, %b patch 2 rescale 1.0 mean [0.0, 0.0, 0.0]
      std [1.0, 1.0, 1.0] eps 1.0 : tensor<?x4x4x3xui8>, tensor<8x12xf32>, tensor<8xf32>,
      tensor<5x4xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @patch_embed_c1(%t: tensor<?x4x4x3xui8>, %w: tensor<8x12xf32>, %c: tensor<8xf32>,
    %p: tensor<5x8xf32>, %n: tensor<4xf32>, %b: tensor<8xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of norm, expected 8, dim 0 of weight}}
  %x = moe.patch_embed %t, %w, %c, %p, %n, %b patch 2 rescale 1.0 mean [0.0, 0.0, 0.0]
      std [1.0, 1.0, 1.0] eps 1.0 : tensor<?x4x4x3xui8>, tensor<8x12xf32>, tensor<8xf32>,
      tensor<5x8xf32>, tensor<4xf32>, tensor<8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @patch_embed_c1(%t: tensor<?x4x4x3xui8>, %w: tensor<8x12xf32>, %c: tensor<8xf32>,
    %p: tensor<5x8xf32>, %n: tensor<8xf32>, %b: tensor<4xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of norm_bias, expected 8, dim 0 of weight}}
  %x = moe.patch_embed %t, %w, %c, %p, %n, %b patch 2 rescale 1.0 mean [0.0, 0.0, 0.0]
      std [1.0, 1.0, 1.0] eps 1.0 : tensor<?x4x4x3xui8>, tensor<8x12xf32>, tensor<8xf32>,
      tensor<5x8xf32>, tensor<8xf32>, tensor<4xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @patch_embed_c1(%t: tensor<2x4x4x3xui8>, %w: tensor<8x12xf32>, %c: tensor<8xf32>,
    %p: tensor<5x8xf32>, %n: tensor<8xf32>, %b: tensor<8xf32>) {
  // expected-error @+1 {{has 8 as dim 0 of result, expected 10, 5 times dim 0 of tiles}}
  %x = moe.patch_embed %t, %w, %c, %p, %n, %b patch 2 rescale 1.0 mean [0.0, 0.0, 0.0]
      std [1.0, 1.0, 1.0] eps 1.0 : tensor<2x4x4x3xui8>, tensor<8x12xf32>, tensor<8xf32>,
      tensor<5x8xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<8x8xf32>
  return
}

// -----

func.func @patch_embed_c1(%t: tensor<?x4x4x3xui8>, %w: tensor<8x12xf32>, %c: tensor<8xf32>,
    %p: tensor<5x8xf32>, %n: tensor<8xf32>, %b: tensor<8xf32>) {
  // expected-error @+1 {{has 9 as dim 1 of result, expected 8, dim 0 of weight}}
  %x = moe.patch_embed %t, %w, %c, %p, %n, %b patch 2 rescale 1.0 mean [0.0, 0.0, 0.0]
      std [1.0, 1.0, 1.0] eps 1.0 : tensor<?x4x4x3xui8>, tensor<8x12xf32>, tensor<8xf32>,
      tensor<5x8xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<?x9xf32>
  return
}

// -----

func.func @patch_embed_c2(%t: tensor<?x4x4x3xui8>, %w: tensor<8x12xf32>, %c: tensor<8xf32>,
    %p: tensor<5x8xf32>, %n: tensor<8xf32>, %b: tensor<8xf32>) {
  // expected-error @+1 {{has 0.000000e+00 as rescale, expected a positive number}}
  %x = moe.patch_embed %t, %w, %c, %p, %n, %b patch 2 rescale 0.0 mean [0.0, 0.0, 0.0]
      std [1.0, 1.0, 1.0] eps 1.0 : tensor<?x4x4x3xui8>, tensor<8x12xf32>, tensor<8xf32>,
      tensor<5x8xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @patch_embed_c3(%t: tensor<?x4x4x3xui8>, %w: tensor<8x12xf32>, %c: tensor<8xf32>,
    %p: tensor<5x8xf32>, %n: tensor<8xf32>, %b: tensor<8xf32>) {
  // expected-error @+1 {{has 0.000000e+00 as eps, expected a positive number}}
  %x = moe.patch_embed %t, %w, %c, %p, %n, %b patch 2 rescale 1.0 mean [0.0, 0.0, 0.0]
      std [1.0, 1.0, 1.0] eps 0.0 : tensor<?x4x4x3xui8>, tensor<8x12xf32>, tensor<8xf32>,
      tensor<5x8xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @tower_qkv_c1(%x: tensor<?x8xf32>, %n: tensor<4xf32>, %m: tensor<8xf32>, %w: tensor<24x8xf32>,
    %b: tensor<24xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of norm, expected 8, dim 1 of x}}
  %y = moe.tower_qkv %x, %n, %m, %w, %b heads 2 grid 2 theta 100.0 eps 1.0 : tensor<?x8xf32>,
      tensor<4xf32>, tensor<8xf32>, tensor<24x8xf32>, tensor<24xf32> -> tensor<?x24xf32>
  return
}

// -----

func.func @tower_qkv_c1(%x: tensor<?x8xf32>, %n: tensor<8xf32>, %m: tensor<4xf32>, %w: tensor<24x8xf32>,
    %b: tensor<24xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of norm_bias, expected 8, dim 1 of x}}
  %y = moe.tower_qkv %x, %n, %m, %w, %b heads 2 grid 2 theta 100.0 eps 1.0 : tensor<?x8xf32>,
      tensor<8xf32>, tensor<4xf32>, tensor<24x8xf32>, tensor<24xf32> -> tensor<?x24xf32>
  return
}

// -----

func.func @tower_qkv_c1(%x: tensor<?x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>, %w: tensor<24x4xf32>,
    %b: tensor<24xf32>) {
  // expected-error @+1 {{has 4 as dim 1 of weight, expected 8, dim 1 of x}}
  %y = moe.tower_qkv %x, %n, %m, %w, %b heads 2 grid 2 theta 100.0 eps 1.0 : tensor<?x8xf32>,
      tensor<8xf32>, tensor<8xf32>, tensor<24x4xf32>, tensor<24xf32> -> tensor<?x24xf32>
  return
}

// -----

func.func @tower_qkv_c1(%x: tensor<?x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>, %w: tensor<24x8xf32>,
    %b: tensor<12xf32>) {
  // expected-error @+1 {{has 12 as dim 0 of bias, expected 24, dim 0 of weight}}
  %y = moe.tower_qkv %x, %n, %m, %w, %b heads 2 grid 2 theta 100.0 eps 1.0 : tensor<?x8xf32>,
      tensor<8xf32>, tensor<8xf32>, tensor<24x8xf32>, tensor<12xf32> -> tensor<?x24xf32>
  return
}

// -----

func.func @tower_qkv_c1(%x: tensor<?x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>, %w: tensor<24x8xf32>,
    %b: tensor<24xf32>) {
  // expected-error @+1 {{has 8 as dim 1 of result, expected 24, dim 0 of weight}}
  %y = moe.tower_qkv %x, %n, %m, %w, %b heads 2 grid 2 theta 100.0 eps 1.0 : tensor<?x8xf32>,
      tensor<8xf32>, tensor<8xf32>, tensor<24x8xf32>, tensor<24xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @tower_qkv_c1(%x: tensor<?x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>, %w: tensor<24x8xf32>,
    %b: tensor<24xf32>) {
  // expected-error @+1 {{has 0 as grid, expected 1 to 1024}}
  %y = moe.tower_qkv %x, %n, %m, %w, %b heads 2 grid 0 theta 100.0 eps 1.0 : tensor<?x8xf32>,
      tensor<8xf32>, tensor<8xf32>, tensor<24x8xf32>, tensor<24xf32> -> tensor<?x24xf32>
  return
}

// -----

func.func @tower_qkv_c1(%x: tensor<4x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>, %w: tensor<24x8xf32>,
    %b: tensor<24xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of x, expected a multiple of the rows of a tile, 5}}
  %y = moe.tower_qkv %x, %n, %m, %w, %b heads 2 grid 2 theta 100.0 eps 1.0 : tensor<4x8xf32>,
      tensor<8xf32>, tensor<8xf32>, tensor<24x8xf32>, tensor<24xf32> -> tensor<4x24xf32>
  return
}

// -----

func.func @tower_qkv_c2(%x: tensor<?x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>, %w: tensor<25x8xf32>,
    %b: tensor<25xf32>) {
  // expected-error @+1 {{has 25 as dim 0 of weight, expected a multiple of queries, keys and values, 3}}
  %y = moe.tower_qkv %x, %n, %m, %w, %b heads 2 grid 2 theta 100.0 eps 1.0 : tensor<?x8xf32>,
      tensor<8xf32>, tensor<8xf32>, tensor<25x8xf32>, tensor<25xf32> -> tensor<?x25xf32>
  return
}

// -----

func.func @tower_qkv_c2(%x: tensor<?x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>, %w: tensor<24x8xf32>,
    %b: tensor<24xf32>) {
  // expected-error @+1 {{has 8 as a third of dim 0 of weight, expected a multiple of heads, 3}}
  %y = moe.tower_qkv %x, %n, %m, %w, %b heads 3 grid 2 theta 100.0 eps 1.0 : tensor<?x8xf32>,
      tensor<8xf32>, tensor<8xf32>, tensor<24x8xf32>, tensor<24xf32> -> tensor<?x24xf32>
  return
}

// -----

func.func @tower_qkv_c2(%x: tensor<?x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>, %w: tensor<24x8xf32>,
    %b: tensor<24xf32>) {
  // expected-error @+1 {{rotates heads of 2 channels, expected a multiple of 4}}
  %y = moe.tower_qkv %x, %n, %m, %w, %b heads 4 grid 2 theta 100.0 eps 1.0 : tensor<?x8xf32>,
      tensor<8xf32>, tensor<8xf32>, tensor<24x8xf32>, tensor<24xf32> -> tensor<?x24xf32>
  return
}

// -----

func.func @tower_qkv_c3(%x: tensor<?x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>, %w: tensor<24x8xf32>,
    %b: tensor<24xf32>) {
  // expected-error @+1 {{has -1.000000e+00 as theta, expected a positive number}}
  %y = moe.tower_qkv %x, %n, %m, %w, %b heads 2 grid 2 theta -1.0 eps 1.0 : tensor<?x8xf32>,
      tensor<8xf32>, tensor<8xf32>, tensor<24x8xf32>, tensor<24xf32> -> tensor<?x24xf32>
  return
}

// -----

func.func @tower_qkv_c3(%x: tensor<?x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>, %w: tensor<24x8xf32>,
    %b: tensor<24xf32>) {
  // expected-error @+1 {{has 0.000000e+00 as eps, expected a positive number}}
  %y = moe.tower_qkv %x, %n, %m, %w, %b heads 2 grid 2 theta 100.0 eps 0.0 : tensor<?x8xf32>,
      tensor<8xf32>, tensor<8xf32>, tensor<24x8xf32>, tensor<24xf32> -> tensor<?x24xf32>
  return
}

// -----

func.func @tower_attention_c1(%x: tensor<?x24xf32>) {
  // expected-error @+1 {{has 8 as dim 1 of result, expected a multiple of heads, 3}}
  %y = moe.tower_attention %x heads 3 grid 2 : tensor<?x24xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @tower_attention_c1(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{has 16 as dim 1 of qkv, expected 24, 3 times dim 1 of result}}
  %y = moe.tower_attention %x heads 2 grid 2 : tensor<?x16xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @tower_attention_c1(%x: tensor<5x24xf32>) {
  // expected-error @+1 {{has 10 as dim 0 of result, expected 5, dim 0 of qkv}}
  %y = moe.tower_attention %x heads 2 grid 2 : tensor<5x24xf32> -> tensor<10x8xf32>
  return
}

// -----

func.func @tower_attention_c2(%x: tensor<?x24xf32>) {
  // expected-error @+1 {{has 0 as grid, expected 1 to 1024}}
  %y = moe.tower_attention %x heads 2 grid 0 : tensor<?x24xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @tower_attention_c2(%x: tensor<4x24xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of qkv, expected a multiple of the rows of a tile, 5}}
  %y = moe.tower_attention %x heads 2 grid 2 : tensor<4x24xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @projection_c1(%x: tensor<?x8xf32>, %w: tensor<4x6xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>,
    %b: tensor<4xf32>, %r: tensor<?x4xf32>) {
  // expected-error @+1 {{has 6 as dim 1 of weight, expected 8, dim 1 of x}}
  %y = moe.projection %x, %w norm %n, %m eps 1.0 : tensor<8xf32>, tensor<8xf32>
      bias %b : tensor<4xf32> residual %r : tensor<?x4xf32>
      : tensor<?x8xf32>, tensor<4x6xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func @projection_c1(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>,
    %b: tensor<4xf32>, %r: tensor<?x4xf32>) {
  // expected-error @+1 {{has 8 as dim 1 of result, expected 4, dim 0 of weight}}
  %y = moe.projection %x, %w norm %n, %m eps 1.0 : tensor<8xf32>, tensor<8xf32>
      bias %b : tensor<4xf32> residual %r : tensor<?x4xf32>
      : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @projection_c1(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>, %n: tensor<4xf32>, %m: tensor<8xf32>,
    %b: tensor<4xf32>, %r: tensor<?x4xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of norm, expected 8, dim 1 of x}}
  %y = moe.projection %x, %w norm %n, %m eps 1.0 : tensor<4xf32>, tensor<8xf32>
      bias %b : tensor<4xf32> residual %r : tensor<?x4xf32>
      : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func @projection_c1(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>, %n: tensor<8xf32>, %m: tensor<4xf32>,
    %b: tensor<4xf32>, %r: tensor<?x4xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of norm_bias, expected 8, dim 1 of x}}
  %y = moe.projection %x, %w norm %n, %m eps 1.0 : tensor<8xf32>, tensor<4xf32>
      bias %b : tensor<4xf32> residual %r : tensor<?x4xf32>
      : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func @projection_c1(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>,
    %b: tensor<8xf32>, %r: tensor<?x4xf32>) {
  // expected-error @+1 {{has 8 as dim 0 of bias, expected 4, dim 0 of weight}}
  %y = moe.projection %x, %w norm %n, %m eps 1.0 : tensor<8xf32>, tensor<8xf32>
      bias %b : tensor<8xf32> residual %r : tensor<?x4xf32>
      : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func @projection_c1(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>,
    %b: tensor<4xf32>, %r: tensor<?x8xf32>) {
  // expected-error @+1 {{has 8 as dim 1 of residual, expected 4, dim 0 of weight}}
  %y = moe.projection %x, %w norm %n, %m eps 1.0 : tensor<8xf32>, tensor<8xf32>
      bias %b : tensor<4xf32> residual %r : tensor<?x8xf32>
      : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func @projection_c1(%x: tensor<2x8xf32>, %w: tensor<4x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>,
    %b: tensor<4xf32>, %r: tensor<3x4xf32>) {
  // expected-error @+1 {{has 3 as dim 0 of residual, expected 2, dim 0 of x}}
  %y = moe.projection %x, %w norm %n, %m eps 1.0 : tensor<8xf32>, tensor<8xf32>
      bias %b : tensor<4xf32> residual %r : tensor<3x4xf32>
      : tensor<2x8xf32>, tensor<4x8xf32> -> tensor<2x4xf32>
  return
}

// -----

func.func @projection_c2(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>,
    %b: tensor<4xf32>, %r: tensor<?x4xf32>) {
  // expected-error @+1 {{has 0.000000e+00 as eps, expected a positive number}}
  %y = moe.projection %x, %w norm %n, %m eps 0.0 : tensor<8xf32>, tensor<8xf32>
      bias %b : tensor<4xf32> residual %r : tensor<?x4xf32>
      : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func @projection_c2(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>, %n: tensor<8xf32>) {
  // expected-error @+1 {{has some of norm, norm_bias and eps, expected all or none}}
  %y = "moe.projection"(%x, %w, %n, %n) <{operandSegmentSizes = array<i32: 1, 1, 1, 1, 0, 0>}>
      : (tensor<?x8xf32>, tensor<4x8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @projection_c2(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>, %n: tensor<8xf32>) {
  // expected-error @+1 {{has some of norm, norm_bias and eps, expected all or none}}
  %y = "moe.projection"(%x, %w, %n) <{eps = 1.0 : f32, operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0>}>
      : (tensor<?x8xf32>, tensor<4x8xf32>, tensor<8xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @tower_output_c1(%x: tensor<?x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>) {
  // expected-error @+1 {{has 1 as grid, expected an even number}}
  %y = moe.tower_output %x, %n, %m grid 1 eps 1.0
      : tensor<?x8xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<?x32xf32>
  return
}

// -----

func.func @tower_output_c1(%x: tensor<?x8xf32>, %n: tensor<4xf32>, %m: tensor<8xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of norm, expected 8, dim 1 of x}}
  %y = moe.tower_output %x, %n, %m grid 2 eps 1.0
      : tensor<?x8xf32>, tensor<4xf32>, tensor<8xf32> -> tensor<?x32xf32>
  return
}

// -----

func.func @tower_output_c1(%x: tensor<?x8xf32>, %n: tensor<8xf32>, %m: tensor<4xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of norm_bias, expected 8, dim 1 of x}}
  %y = moe.tower_output %x, %n, %m grid 2 eps 1.0
      : tensor<?x8xf32>, tensor<8xf32>, tensor<4xf32> -> tensor<?x32xf32>
  return
}

// -----

func.func @tower_output_c1(%x: tensor<?x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>) {
  // expected-error @+1 {{has 8 as dim 1 of result, expected 32, 4 times dim 1 of x}}
  %y = moe.tower_output %x, %n, %m grid 2 eps 1.0
      : tensor<?x8xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @tower_output_c1(%x: tensor<4x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of x, expected a multiple of the rows of a tile, 5}}
  %y = moe.tower_output %x, %n, %m grid 2 eps 1.0
      : tensor<4x8xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<?x32xf32>
  return
}

// -----

func.func @tower_output_c1(%x: tensor<10x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>) {
  // expected-error @+1 {{has 8 as dim 0 of result, expected 2, the rows of as many tiles as x has}}
  %y = moe.tower_output %x, %n, %m grid 2 eps 1.0
      : tensor<10x8xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<8x32xf32>
  return
}

// -----

func.func @tower_output_c2(%x: tensor<?x8xf32>, %n: tensor<8xf32>, %m: tensor<8xf32>) {
  // expected-error @+1 {{has 0.000000e+00 as eps, expected a positive number}}
  %y = moe.tower_output %x, %n, %m grid 2 eps 0.0
      : tensor<?x8xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<?x32xf32>
  return
}
