# Builds the same addon as CMakeLists.txt by node-gyp, for checkouts without cmake: npx node-gyp rebuild
# `npm run build` uses cmake-js, and that is what is tested; keep flags and levels in step. This file is not published:
# npm would run node-gyp in every installation that finds it.
{
  "variables": {
    "common_flags": [
      "-std=c++20", "-fno-exceptions", "-fno-rtti", "-ffp-contract=off", "-fvisibility=hidden",
      "-fvisibility-inlines-hidden", "-Wall", "-Wextra", "-Wpedantic", "-Werror"
    ],
    "gcc_flags": [
      "<!@(node -p \"/clang/.test(require('child_process').execSync((process.env.CXX || 'c++') + ' --version')) ? '-Wno-unknown-warning-option' : '-Wno-restrict'\")"
    ],
    "kernel_files": ["<!@(node -p \"require('./native/sources.json').kernels.join(' ')\")"],
    "other_files": [
      "<!@(node -p \"const s = require('./native/sources.json'); [...s.core, ...s.device, ...s.binding].join(' ')\")"
    ]
  },
  "target_defaults": {
    "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
    "cflags_cc": ["<@(common_flags)", "<@(gcc_flags)"],
    "cflags": ["-fPIC", "-ffile-prefix-map=<(module_root_dir)/="],
    "cflags!": ["-fno-omit-frame-pointer"],
    "defines": ["NDEBUG"]
  },
  "targets": [
    {
      "target_name": "kernels_v2",
      "type": "static_library",
      "sources": ["<@(kernel_files)"],
      "defines": ["WS_LEVEL=1", "WS_NS=v2"],
      "cflags_cc": ["-march=x86-64-v2"]
    },
    {
      "target_name": "kernels_avx2",
      "type": "static_library",
      "sources": ["<@(kernel_files)"],
      "defines": ["WS_LEVEL=2", "WS_NS=avx2"],
      "cflags_cc": ["-march=x86-64-v3"]
    },
    {
      "target_name": "kernels_avx512",
      "type": "static_library",
      "sources": ["<@(kernel_files)"],
      "defines": ["WS_LEVEL=3", "WS_NS=avx512"],
      "cflags_cc": ["-march=x86-64-v4", "-mprefer-vector-width=512"]
    },
    {
      "target_name": "kernels_avx512bf16",
      "type": "static_library",
      "sources": ["<@(kernel_files)"],
      "defines": ["WS_LEVEL=4", "WS_NS=avx512bf16"],
      "cflags_cc": ["-march=x86-64-v4", "-mavx512bf16", "-mprefer-vector-width=512"]
    },
    {
      "target_name": "kernels_amx",
      "type": "static_library",
      "sources": ["<@(kernel_files)"],
      "defines": ["WS_LEVEL=5", "WS_NS=amx"],
      "cflags_cc": ["-march=x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mprefer-vector-width=512"]
    },
    {
      "target_name": "whetstone",
      "sources": ["<@(other_files)"],
      "dependencies": ["kernels_v2", "kernels_avx2", "kernels_avx512", "kernels_avx512bf16", "kernels_amx"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": [
        "NAPI_VERSION=9", "NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
        "NODE_ADDON_API_DISABLE_DEPRECATED", "BUILDING_NODE_EXTENSION"
      ],
      "ldflags": ["-static-libgcc", "-Wl,--exclude-libs,ALL", "-Wl,-z,nodelete", "-pthread"],
      "libraries": ["-ldl"]
    }
  ]
}
