"""A map in the browser: splats to orbit, objects to click (needs the extra "viewer"; knows no ROS).

    with Viewer(FolderSource("house_map")) as viewer:
        print(viewer.address)
        viewer.wait(lambda: False)
"""
