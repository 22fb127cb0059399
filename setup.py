"""`pip install .`: the library and the command `segzero` without ROS. With ROS, colcon uses CMakeLists.txt."""

from setuptools import find_packages, setup

setup(
    name="segzero_ros",
    version="0.1.0",
    description="An instruction in, masks out: reasoning segmentation with SAM 2, for ROS 2 and without it",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["segzero_ros", "training", "training.*"]),
    package_data={
        "segzero_ros": ["profiles/*.yaml", "rehearse/architectures/*/*.json", "weights/**/*"],
        "training": [
            "finetune/trl_defaults.json",
            "configs/**/*.yaml",
            "engines/verl/*.yaml",
            "engines/verl/verl_keys.txt",
        ],
    },
    install_requires=[
        "httpx2>=2,<3",
        "llguidance>=1.7",
        "numpy>=1.26",
        "opencv-python-headless>=4.8,<5",
        "peft>=0.18",
        "pillow>=10",
        "PyYAML>=6",
        "rosbags>=0.11",
        "rosbags-image>=0.10",
        "safetensors>=0.5",
        "scipy>=1.11",
        "tokenizers>=0.20",
        "torch>=2.5",
        "tqdm>=4.66",
        "transformers>=5.5,<6",
    ],
    entry_points={"console_scripts": ["segzero = segzero_ros.cli:main", "segzero-train = training.cli:main"]},
    zip_safe=False,
)
